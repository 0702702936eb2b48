"""The report as one page: the numbers first, then plots, promises, participation, time, and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from xml.etree.ElementTree import Element

from foedus.report import plots
from foedus.report.card import render_card
from foedus.report.markup import Node, document, h
from foedus.report.promises import assumptions, meaning, promises, span
from foedus.report.record import RunRecord, SiloAccount
from foedus.report.timing import PHASES, has_phases, spans

OUTCOMES = {"Complete": "Complete", "EndedEarly": "Ended early", "Failed": "Failed", "Interrupted": "Interrupted"}
NOT_MEASURED = "not measured"


def build_page(record: RunRecord, card: str | None) -> bytes:
    """Return the page for a run; `card` is the model card's Markdown, None when no adapter was left."""
    style = files("foedus.report").joinpath("style.css").read_text("utf-8")
    return document(
        f"{record.plan.job}: training report",
        style,
        plots.patterns(),
        _header(record),
        h(
            "main",
            _numbers(record),
            _section("Over the rounds", _figures(record)),
            _section("Promised and spent", *_promised(record)),
            _section("Participation", *_participation(record)),
            _section("Where the time went", *_time(record)),
            _section("Model card", _card(card)),
            _section(f"All {plots.unit(record)}s", _attempts(record)),
        ),
        _footer(record),
    )


def _header(record: RunRecord) -> Element:
    ended, plan = record.ending, record.plan
    message = h("p", h("strong", "Why it ended: "), ended.message, class_="why") if ended.message else None
    facts = (
        f"{len(plan.silos)} silos with {plan.total_records:,} records · {record.base_model} · "
        f"{record.trainable_parameters:,} trained parameters"
    )
    kind = "badge" if ended.outcome == "Complete" else "badge open"
    return h(
        "header",
        h("p", f"Training report · {plan.namespace}", class_="eyebrow"),
        h("h1", plan.job, " ", h("span", OUTCOMES[ended.outcome], class_=kind)),
        h("p", facts),
        h("p", f"{moment(record.began_at)} to {moment(ended.at)}", class_="quiet"),
        message,
    )


def moment(seconds: float) -> str:
    """Return a moment as date and time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """Return a length of time in seconds, or in minutes and hours when it is long."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _numbers(record: RunRecord) -> Element:
    plan, limit = record.plan, record.plan.privacy.epsilon
    accuracy = NOT_MEASURED if record.accuracy is None else f"{record.accuracy:.1%}"
    held = [len(attempt.survivors) for attempt in record.released]
    spare = f"{len(record.attempts):,} of {plan.attempts:,} reserved attempts used"
    meter = plots.share_bar(record.epsilon_spent / limit, f"{record.epsilon_spent / limit:.0%} of ε is spent", "meter")
    delta = h("span", f"at δ = {plan.privacy.delta:g}", class_="whole")
    return h(
        "dl",
        _tile("Accuracy", accuracy, "on public held-out records"),
        _tile("ε spent", f"{record.epsilon_spent:.3f}", meter, f"of {limit:g} promised, ", delta),
        _tile("Rounds", f"{len(record.released):,} of {plan.rounds:,}", spare),
        _tile(
            "Silos a round",
            span(min(held), max(held)) if held else "none",
            f"of {len(plan.silos)}; {plan.privacy.threshold} are needed",
        ),
        _tile("Time", duration(max(0.0, record.ending.at - record.began_at)), "from the first process to the end"),
        class_="tiles",
    )


def _tile(name: str, value: str, *more: Node) -> Element:
    return h("div", h("dt", name), h("dd", value, class_="value"), h("dd", *more, class_="quiet"))


def _section(title: str, *content: Node) -> Element:
    return h("section", h("h2", title), *content)


def _figures(record: RunRecord) -> Element:
    accuracy = plots.accuracy_plot(record) if record.accuracy is not None else h("p", NOT_MEASURED, class_="quiet")
    figures: tuple[tuple[str, str, Element, Element | None], ...] = (
        ("Accuracy on public records", "share of texts classified rightly", accuracy, None),
        ("Privacy loss spent", f"ε at δ = {record.plan.privacy.delta:g}", plots.epsilon_plot(record), None),
        ("Silos in the sum", "number of silos", plots.silos_plot(record), None),
        (f"Time of each {plots.unit(record)}", "seconds", plots.time_plot(record), _legend(record)),
    )
    shown = [
        h("figure", h("figcaption", h("strong", title), " ", h("span", unit, class_="quiet")), plot, legend)
        for title, unit, plot, legend in figures
    ]
    failed = len(record.attempts) - len(record.released)
    crosses = h("p", "× marks an attempt that released nothing.", class_="quiet") if failed else None
    return h("div", h("div", *shown, class_="figures"), crosses)


def _legend(record: RunRecord) -> Element | None:
    if not has_phases(record):
        return None
    entries = [h("li", plots.swatch(index), text) for index, (_, text) in enumerate(PHASES)]
    return h("ul", *entries, class_="legend quiet")


def _promised(record: RunRecord) -> tuple[Node, ...]:
    rows = [(promise.what, promise.promised, promise.kept) for promise in promises(record)]
    return (
        h("p", meaning(record)),
        table(("", "promised", "as it was"), rows, kind="facts"),
        h("ul", *(h("li", sentence) for sentence in assumptions(record))),
    )


def _participation(record: RunRecord) -> tuple[Node, ...]:
    accounts = {account.silo: account for account in record.accounts}
    rows = [
        (
            silo.name,
            plots.strip(record, silo.name),
            f"{sum(silo.name in attempt.survivors for attempt in record.attempts):,} of {len(record.attempts):,}",
            _charged(accounts.get(silo.name)),
            f"{silo.records:,}",
        )
        for silo in record.plan.silos
    ]
    head = ("silo", f"{plots.unit(record)}s, from left to right", "in the sum", "charged", "records")
    key = (
        "A full bar: in the sum. A low bar: lost during the attempt. A line alone: not there, or nothing was released."
    )
    return table(head, rows, kind="silos"), h("p", key, class_="quiet")


def _charged(account: SiloAccount | None) -> str:
    return "unknown" if account is None else f"{account.charged:,} of {account.reserved:,}"


def _time(record: RunRecord) -> tuple[Node, ...]:
    parts = spans(record)
    whole = max(sum(part.seconds for part in parts), 1e-9)
    rows = [
        (
            h("span", plots.swatch(part.phase) if part.phase is not None else None, part.what, class_="part"),
            plots.share_bar(part.seconds / whole, f"{part.seconds / whole:.0%} of the time"),
            f"{part.seconds:,.1f} s",
            f"{part.seconds / whole:.0%}",
        )
        for part in parts
    ]
    key = "The parts with a square are sums over all attempts; their textures are those of the plot."
    return table(("part", "share of the whole", "time", "share"), rows, kind="times"), h("p", key, class_="quiet")


def _card(card: str | None) -> Element:
    if card is None:
        return h("p", "This run left no adapter, and so no model card.", class_="quiet")
    return render_card(card)


def _attempts(record: RunRecord) -> Element:
    rows = [
        (
            f"{attempt.round + 1:,}",
            f"{attempt.attempt + 1:,}",
            f"{len(attempt.survivors)}",
            f"{attempt.epsilon_spent:.4f}",
            f"{attempt.accuracy:.4f}" if attempt.applied and attempt.accuracy is not None else "–",
            f"{attempt.seconds:.1f} s",
            _remark(attempt.applied, attempt.dropped, attempt.reason),
        )
        for attempt in record.attempts
    ]
    head = ("round", "attempt", "silos", "ε spent", "accuracy", "time", "remarks")
    return h("details", h("summary", f"{len(rows):,} attempts as a table"), table(head, rows, kind="attempts"))


def _remark(applied: bool, dropped: Sequence[str], reason: str) -> str:
    lost = f"without {', '.join(dropped)}" if dropped else ""
    why = "" if applied else f"released nothing: {reason or 'too few silos'}"
    return "; ".join(part for part in (why, lost) if part)


def table(head: Sequence[str], rows: Iterable[Sequence[Node]], *, kind: str) -> Element:
    """Return a table whose first column names the rows; it scrolls by itself where the page is too narrow."""
    titles = h("tr", *(h("th", title, scope="col") for title in head))
    lines = [
        h("tr", *(h("td", cell) if index else h("th", cell, scope="row") for index, cell in enumerate(row)))
        for row in rows
    ]
    whole = h("table", h("thead", titles), h("tbody", *lines), class_=kind)
    return h("div", whole, class_="scroll", tabindex="0")


def _footer(record: RunRecord) -> Element:
    facts = (
        ("plan", record.plan_digest),
        ("base model", record.plan.model.digest),
        ("adapter", record.ending.adapter_digest or "none"),
        ("code", record.code_digest or "not known"),
        ("made by", f"Foedus {record.foedus}"),
    )
    pairs = [part for name, value in facts for part in (h("dt", name), h("dd", value))]
    return h("footer", h("dl", *pairs))
