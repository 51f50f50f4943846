"""Reads run directories and reports into plain values, and lists where two of them differ.

    for difference in compare(read_runs(Path("before")), read_runs(Path("after"))):
        print(difference)

It reads what lies on the disk and imports nothing of seqmem, so that it can compare any two versions. Values are
compared bit by bit: 1 is not 1.0, -0.0 is not 0.0, but NaN equals NaN. What a clock decides is left out, see CLOCK.

Where a version of seqmem changes how it stores a value, without changing the value, ``current_result``,
``current_row``, ``current_config``, ``current_text`` and ``current_report`` map the earlier form to the current one.
Both sides go through them.
"""

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

CLOCK: Mapping[str, frozenset[str]] = {
    "result.json": frozenset({"seconds", "steps_per_second", "versions"}),
    "status.json": frozenset({"pid", "host"}),
    "environment.json": frozenset({"command", "started", "git_commit", "seqmem"}),
    "tables": frozenset({"seconds", "started", "git_commit", "command", "seqmem"}),
}
"""File -> its entries that differ between two runs of the same code, or that name the code itself."""

# Layouts


def current_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result.json`` in its current layout.

    ``{"gradient": {"start": ..., "end": ...}}`` became ``{"probes": {"gradient": {"start": ..., "end": ...}}}``, of
    which ``_of_any_definition`` is compared.
    """
    return _of_any_definition(_under_probes(result))


def current_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl`` in its current layout.

    ``{"kind": "trace", "gradient": ...}`` became ``{"kind": "trace", "probes": {"gradient": ...}}``, of which
    ``_of_any_definition`` is compared.
    """
    return _of_any_definition(_under_probes(row))


def _under_probes(value: Mapping[str, Any]) -> dict[str, Any]:
    if "gradient" not in value:
        return dict(value)
    others = {key: inner for key, inner in value.items() if key != "gradient"}
    return {**others, "probes": {"gradient": value["gradient"], **value.get("probes", {})}}


def _of_any_definition(value: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of the gradient that did not change their meaning.

    They became relative to one step back from the answer, and a half-life a matter of a straight line. All follow from
    the traces, which are compared bit by bit.
    """
    probes = value.get("probes", {})
    if "gradient" not in probes:
        return dict(value)
    return {**value, "probes": {**probes, "gradient": _kept(probes["gradient"])}}


def _kept(numbers: Any) -> Any:
    if not isinstance(numbers, Mapping):
        return numbers
    if "half_life" in numbers or "underflowed" in numbers:
        return {name: number for name, number in numbers.items() if name == "underflowed"}
    return {name: _kept(inner) for name, inner in numbers.items()}


REDEFINED = re.compile(
    r"(gradient[\w.]*|result)/(half_life|horizon|log10_\w+)|gradient[\w.]*/(log10 )?by[_ ](timestep|distance).*"
    r"|gradient/heatmap|summary"
)
"""Tags of TensorBoard that show such numbers, the gradient relative to the answer, or a floor: not compared."""

_GRADIENT_LINES = re.compile(
    r"^(gradient|half-life|horizon|arrives|shape) .*\n?|^ +(first .* answer|10\S+ \S+ 1) .*\n?"
    r"|^ +\S+ [\d.^-]+( %)? → [\d.^-]+( %)?.*\n?",  # of each state, on a further line
    re.MULTILINE,
)

_GRADIENT_COLUMNS = re.compile(r"(log10_\w+|half_life|horizon)_(start|end)(_\w+)?")

LATER_COLUMNS: Mapping[str, Collection[str]] = {"groups.csv": {"parameters"}}
"""Columns of a report's tables that the current version added."""

LATER_FILES = frozenset({"checksums.json"})
"""Files of a run that the current version added."""


LATER_SETTINGS: Mapping[str, Any] = {"model.name": "recurrent", "probe": {}}
"""Setting -> its default, of settings that the current version added: a configuration without one has the default.

A dot separates a group from a setting in it, as on the command line.
"""


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the settings that were added later, at their defaults."""
    settings = json.loads(json.dumps(config))
    for name, default in LATER_SETTINGS.items():
        *groups, last = name.split(".")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})
        place.setdefault(last, default)
    return settings


def current_text(text: str) -> str:
    """What a verb printed, in its current words: a score that is not finite reads ``diverged``, which read ``nan``.

    Columns are as wide as their widest word, so blanks are not compared where there is such a score. What it says of
    the gradient was relative to the answer, and is left out.
    """
    text = _GRADIENT_LINES.sub("", re.sub(r"  (half-life|gradient arriving) \S+( %)?$", "", text, flags=re.MULTILINE))
    text = re.sub(r"\bnan\b", "diverged", text)
    return re.sub(r" {2,}", "  ", text) if "diverged" in text else text


def current_report(page: str) -> str:
    """The report's page in its current form: one blank for any, no empty ``class``, no row of an empty setting group.

    ``cell.args`` without arguments was listed as a setting with the value ``{}``.
    """
    page = re.sub(r"\s+", " ", page).replace(' class=""', "")
    page = re.sub(r"> <", "><", re.sub(r" ?(<[^>]+>) ?", r"\1", page))
    return re.sub(r'<tr><td class="left">cell\.args</td><td class="words">[^<]*\{\}[^<]*</td></tr>', "", page)


def shown_by_playground(page: str) -> dict[str, str]:
    """The playground's data, and the texts of its page; the names in its code and their order are not compared.

    A model had a ``half_life``, which the page did not show.
    """
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    texts = re.sub(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]+>", " ", page, flags=re.DOTALL)
    data = re.sub(r'"half_life":\s*[^,]+,\s*', "", data)
    return {"data": _digest(data.encode()), "texts": " ".join(texts.split())}


# Differences


@dataclass(frozen=True)
class Difference:
    """A value that two sides do not share. ``where``: the path to it, e.g. ``lstm/len8/metrics/3/loss``."""

    where: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.where}: {self.old} -> {self.new}"


_ABSENT = "(absent)"


def compare(old: Any, new: Any, where: str = "") -> Iterator[Difference]:
    """Every place where two trees of mappings, sequences, arrays and plain values differ, in the old one's order."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            path = f"{where}/{key}" if where else str(key)
            if key not in new:
                yield Difference(path, _short(old[key]), _ABSENT)
            elif key not in old:
                yield Difference(path, _ABSENT, _short(new[key]))
            else:
                yield from compare(old[key], new[key], path)
    elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        yield from _compare_arrays(old, new, where)
    elif _is_sequence(old) and _is_sequence(new):
        if len(old) != len(new):
            yield Difference(f"{where} (length)", str(len(old)), str(len(new)))
        for place, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from compare(one, other, f"{where}/{place}")
    elif type(old) is not type(new) or repr(old) != repr(new):  # repr tells -0.0 from 0.0, and all digits of a float
        yield Difference(where, *_around_difference(old, new))


def _compare_arrays(old: np.ndarray, new: np.ndarray, where: str) -> Iterator[Difference]:
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        yield Difference(where, f"{old.dtype} {old.shape}", f"{new.dtype} {new.shape}")
    elif old.tobytes() != new.tobytes():
        old_bytes, new_bytes = (
            np.frombuffer(values.tobytes(), np.uint8).reshape(values.size, values.itemsize) for values in (old, new)
        )
        unequal = np.flatnonzero((old_bytes != new_bytes).any(axis=1))
        first = np.unravel_index(unequal[0], old.shape)
        place = f"{where}[{', '.join(str(i) for i in first)}]"
        count = f" ({len(unequal)} of {old.size} differ)"
        yield Difference(place, repr(old[first].item()), repr(new[first].item()) + count)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _around_difference(old: Any, new: Any) -> tuple[str, str]:
    """Two values, shortened; two long texts from just before the first letter that differs."""
    if isinstance(old, str) and isinstance(new, str):
        same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        start = max(0, same - 30)
        return _short(old[start:]), _short(new[start:])
    return _short(old), _short(new)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:99]}…"


# Runs


def read_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """The run directories below ``folder``: relative path -> ``read_run``."""
    return {str(path.parent.relative_to(folder)): read_run(path.parent) for path in sorted(folder.rglob("config.json"))}


def read_run(path: Path) -> dict[str, Any]:
    """All that a run left on the disk, as plain values and arrays, without what a clock decides."""
    facts: dict[str, Any] = {
        "files": sorted(
            file.name for file in path.iterdir() if file.suffix != ".lock" and file.name not in LATER_FILES
        ),
        "config": current_config(_read_json(path / "config.json")),
    }
    for name in ("status.json", "environment.json", "overrides.json"):
        if (path / name).exists():
            facts[name.removesuffix(".json")] = _without(_read_json(path / name), CLOCK.get(name, frozenset()))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        if (path / name).exists():
            lines = (path / name).read_text().splitlines()
            facts[name.removesuffix(".jsonl")] = [current_row(json.loads(line)) for line in lines]
    if (path / "gradients.npz").exists():
        facts["gradients"] = read_arrays(path / "gradients.npz")
    if (path / "result.json").exists():
        facts["result"] = current_result(_without(_read_json(path / "result.json"), CLOCK["result.json"]))
    if (path / "checkpoint.pt").exists():
        facts["checkpoint"] = read_checkpoint(path / "checkpoint.pt")
    for file in sorted(path.glob("events.out.tfevents.*")):
        facts[file.name] = read_events(file)
    return facts


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors of the model and of the optimizer: "model" or "optimizer" -> name -> array."""
    import torch

    saved = torch.load(path, map_location="cpu", weights_only=True)
    return {part: dict(_tensors(find_key(saved, part))) for part in ("model", "optimizer")}


def find_key(value: Any, key: str) -> Any:
    """The value under ``key`` in nested dictionaries, the outermost if there are several.

    Raises:
        KeyError: there is none.
    """
    queue = [value]
    for inner in queue:
        if isinstance(inner, Mapping):
            if key in inner:
                return inner[key]
            queue.extend(inner.values())
    raise KeyError(key)


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    import torch

    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous()
        yield name, (raw.view(torch.int16) if raw.dtype == torch.bfloat16 else raw).numpy()
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))


def read_events(path: Path) -> dict[str, dict[str, Any]]:
    """A TensorBoard event file: tag -> its description and its points (step, value), in the order of the file.

    TensorBoard's EventAccumulator drops points where steps go back, so that a curve that is drawn anew loses its first
    drawings; the records themselves are read instead. Images stand as their digest, texts as ``plain_text`` has them.
    """
    from google.protobuf.json_format import MessageToDict
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    tags: dict[str, dict[str, Any]] = {}
    for record in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(record)
        for value in event.summary.value:
            if REDEFINED.fullmatch(value.tag):
                continue
            plugin = value.metadata.plugin_data
            tag = tags.setdefault(
                value.tag,
                {"plugin": plugin.plugin_name, "description": value.metadata.summary_description, "points": []},
            )
            if plugin.plugin_name == "hparams":
                data = HParamsPluginData.FromString(plugin.content)
                for part, clock in (
                    (data.experiment, "time_created_secs"),
                    (data.session_start_info, "start_time_secs"),
                    (data.session_end_info, "end_time_secs"),
                ):
                    if getattr(part, clock):
                        part.ClearField(clock)
                content: Any = MessageToDict(data)
                metrics = content.get("experiment", {}).get("metricInfos", [])
                metrics[:] = [one for one in metrics if not REDEFINED.fullmatch(one["name"]["tag"])]
            elif value.HasField("image"):
                content = f"{value.image.width} x {value.image.height} {_digest(value.image.encoded_image_string)}"
            elif value.HasField("tensor"):
                content = [_text_value(value.tag, text.decode()) for text in value.tensor.string_val]
            else:
                content = value.simple_value
            tag["points"].append([event.step, content])
    return tags


def _text_value(tag: str, text: str) -> Any:
    """A text; the configuration, which stands in one of them, as its settings."""
    if tag == "config":
        return current_config(json.loads(text[text.index("{") : text.rindex("}") + 1]))
    return plain_text(text)


# Reports and terminal texts


def read_report(folder: Path) -> dict[str, Any]:
    """The CSV tables of a report: file -> rows of column -> cell, without what a clock decides and what changed its
    meaning."""
    tables: dict[str, Any] = {}
    for path in sorted(folder.glob("*.csv")):
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        dropped = LATER_COLUMNS.get(path.name, ())
        names = [name for name in rows.fieldnames or () if name not in dropped]
        columns = [name for name in names if not _GRADIENT_COLUMNS.fullmatch(name)]
        tables[path.name] = [_without({name: row[name] for name in columns}, CLOCK["tables"]) for row in rows]
    return tables


def read_digests(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` -> the digest of its bytes; of the report's page, of its current form."""
    return {
        str(path.relative_to(folder)): _digest(
            current_report(path.read_text(encoding="utf-8")).encode() if path.suffix == ".html" else path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


_TIMES = re.compile(
    r"\b\d[\d,.]*(?:e[-+]?\d+)?\s?(?:steps/s|s|ms|min|h)(?![\w/])"  # 43.2 steps/s, 0.5 s
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*"
)


def plain_text(text: str) -> str:
    """A text for people without durations, speeds and dates, and without the blanks and rules that fit their width."""
    text = _TIMES.sub("(time)", text)
    return "\n".join(re.sub(r"─{2,}", "──", re.sub(r" {2,}", "  ", line)).rstrip() for line in text.splitlines())


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _without(value: Any, names: frozenset[str]) -> Any:
    """Without these keys, at any depth."""
    if isinstance(value, Mapping):
        return {key: _without(inner, names) for key, inner in value.items() if key not in names}
    return [_without(inner, names) for inner in value] if isinstance(value, list) else value


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()
