"""What a pod that reads a volume is made with: an image that knows how to hand files over."""

from __future__ import annotations

from foedus_contract.errors import InvalidInput
from foedus_engine.build.pods import Settings
from foedus_engine.cluster.protocol import Object

SUFFIX_BYTES = 3  # of the pod's name, so that two at a time do not meet


def reader_settings(job: Object | None, image: str | None, where: str) -> Settings:
    """Return the image that was named, else that of one of Foedus' Jobs; raises InvalidInput when there is neither."""
    if job is None:
        if image is None:
            cure = "name the workload image of the installation with --image"
            raise InvalidInput("no Job is left that would name an image", where=where, cure=cure)
        return Settings(image=image)
    pod = job["spec"]["template"]["spec"]
    secrets = tuple(str(secret["name"]) for secret in pod.get("imagePullSecrets", ()))
    return Settings(image=image or str(pod["containers"][0]["image"]), image_pull_secrets=secrets)
