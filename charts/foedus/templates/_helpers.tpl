{{/* What selects the pods of one component; it never changes. Argument: root, component. */}}
{{- define "foedus.selector" -}}
app.kubernetes.io/name: foedus
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The labels of an object. Argument: root, component. */}}
{{- define "foedus.labels" -}}
{{ include "foedus.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image by digest, or else by tag. Argument: root, image (a key of .Values.images). */}}
{{- define "foedus.image" -}}
{{- $image := index .root.Values.images .image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What both components' pods have in common. Argument: root, component. */}}
{{- define "foedus.pod" -}}
{{- $values := index .root.Values .component -}}
serviceAccountName: foedus-{{ .component }}
# Only here: the ServiceAccount itself gives its token to no pod.
automountServiceAccountToken: true
enableServiceLinks: false
# What is under way is finished, or left to the other replica.
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
# Not on one node, where there are more; a cluster of one node still gets both replicas.
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "foedus.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a component is asked for health and metrics: the ledger has the one port for everything. Argument: component. */}}
{{- define "foedus.asked" -}}
port: {{ eq .component "ledger" | ternary "https" "health" }}, scheme: HTTPS
{{- end }}

{{/* What both components' containers have in common. Argument: root, component. */}}
{{- define "foedus.container" -}}
{{- $asked := include "foedus.asked" . -}}
image: {{ include "foedus.image" (dict "root" .root "image" "operator") }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
# Starting means importing Python packages, which takes long on a busy node.
startupProbe:
  httpGet: {path: /health, {{ $asked }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health, {{ $asked }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /ready, {{ $asked }}}
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- toYaml (index .root.Values .component).resources | nindent 2 }}
{{- end }}

{{/* Egress to the API server, and nothing else: names are not asked for, since its address is in the environment. */}}
{{- define "foedus.egress" -}}
- ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.apiServer.cidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- end }}

{{/* Ingress to the metrics from the namespaces that are named, if any. The kubelet's probes need no rule.
     Argument: root, port. */}}
{{- define "foedus.metricsIngress" -}}
{{- $port := .port -}}
{{- with .root.Values.networkPolicy.metricsFrom -}}
- ports:
    - {protocol: TCP, port: {{ $port }}}
  from:
    - namespaceSelector:
        matchExpressions:
          - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end }}
{{- end }}

{{/* How metrics are asked for: with a token that may read them, from who has the certificate. Argument: root, component. */}}
{{- define "foedus.metricsAccess" -}}
scheme: https
tlsConfig:
  serverName: foedus-{{ .component }}.{{ .root.Release.Namespace }}.svc
  ca:
    secret: {name: {{ .root.Values.ledger.certificate.secretName }}, key: ca.crt}
authorization:
  credentials: {name: foedus-metrics, key: token}
{{- end }}
