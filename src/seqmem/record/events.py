"""One TensorBoard event file that can be cut back to its size at a checkpoint.

TensorBoard's own writers start a new file each time, named by the clock, so what a killed run wrote after its last
checkpoint would stay. Here the records are TensorBoard's and the file is ours. A run that is cut back and resumed
writes the same bytes again (apart from wall times), so a TensorBoard that has been reading the file can go on, too.

A *curve* is a scalar tag whose step is not the training step but a timestep, a distance or a length. Writing it again
replaces it: at a step that does not grow, TensorBoard drops the points of that tag from there on.
"""
# pyright: reportAttributeAccessIssue=false
# (protobuf creates the classes of its generated modules at import)

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import time

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError
from jaxtyping import UInt8
from numpy import ndarray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from ..runs.checksums import Checksum, checksum_of
from ..runs.files import RunError, not_followed, read_bytes

# From files of version 2 readers keep every point of a rewritten tag, from version 1 only the last ones. TensorBoard's
# fast reader does the latter for both, but it does not exist for every platform.
_VERSION = "brain.Event:1"


# TensorBoard's fast reader keeps a tag's description only if the tag names its class of data.
_CLASSES = {"scalars": DATA_CLASS_SCALAR, "images": DATA_CLASS_BLOB_SEQUENCE, "text": DATA_CLASS_TENSOR}


Hparam = str | bool | int | float

# As in tensorboard.plugins.hparams.metadata, which takes 50 ms to import.
_EXPERIMENT, _SESSION_START, _SESSION_END = (
    f"_hparams_/{name}" for name in ("experiment", "session_start_info", "session_end_info")
)
_NO_TENSOR = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=0)]))


class GrowingFile:
    """A buffered file that grows at its end, from its first ``keep`` bytes (None: from nothing).

    It knows a checksum of all that it wrote, so that no byte that others changed goes unnoticed into a result.

    ``write`` only fills the buffer. A full disk is an OSError in ``flush`` and nowhere else; the buffer is then
    dropped, so that closing the file is safe.

    Args:
        checksum: of the first ``keep`` bytes; None: not known.

    Raises:
        ValueError: the file has fewer than ``keep`` bytes, or others than those of ``checksum``.
    """

    def __init__(self, path: Path, keep: int | None = None, checksum: str | None = None) -> None:
        size = path.stat().st_size if keep else 0
        if keep and size < keep:
            raise ValueError(f"{path} ends at byte {size}, before byte {keep}")
        self._path = path
        self._pending = bytearray()
        self._checksum = checksum_of(path, keep) if keep else Checksum()
        if checksum is not None and self._checksum.hexdigest() != checksum:
            raise ValueError(f"{path} was changed by something else up to byte {keep}")
        self._file = open(path, "r+b" if keep else "wb", buffering=0, opener=not_followed)  # noqa: SIM115
        self._file.truncate(keep or 0)
        self._file.seek(0, os.SEEK_END)

    def write(self, content: bytes) -> None:
        self._pending += content

    @property
    def waiting(self) -> int:
        """Bytes in the buffer."""
        return len(self._pending)

    def flush(self) -> None:
        """Hand the buffer to the operating system: its content survives this process."""
        pending, self._pending = memoryview(self._pending), bytearray()
        while pending:
            count = self._file.write(pending)
            self._checksum.update(pending[:count])
            pending = pending[count:]

    def position(self) -> int:
        """The size in bytes, after a sync to the disk: the content survives a power cut. Errors as for ``check``."""
        self.flush()
        os.fsync(self._file.fileno())
        self.check()
        return self._file.tell()

    def check(self) -> None:
        """Look at the file's size and place, not at its content.

        Raises:
            RunError: something else has deleted, replaced, cut or extended it.
        """
        try:
            there, ours = self._path.stat(), os.fstat(self._file.fileno())
        except FileNotFoundError:
            raise self._changed("deleted") from None
        if not os.path.samestat(there, ours):
            raise self._changed("replaced")
        if ours.st_size != self._file.tell():
            raise self._changed("changed")

    @property
    def checksum(self) -> str:
        """Checksum of all bytes that were flushed."""
        return self._checksum.hexdigest()

    def verify(self) -> None:
        """Read the file again, and compare.

        Raises:
            RunError: something else has changed it.
        """
        if checksum_of(self._path, self.position()).hexdigest() != self.checksum:
            raise self._changed("changed")

    def _changed(self, how: str) -> RunError:
        return RunError(f"{self._path} was {how} by something else while the run was writing it: use force=true")

    def close(self) -> None:
        try:
            if not self._file.closed:
                self.flush()
        finally:
            self._file.close()


class EventFile:
    """Written on ``flush``, ``position`` and ``close``; each raises OSError when the disk is full.

    Args:
        keep, checksum: as for ``GrowingFile``; a byte inside a record is a ValueError.
        describe: tag -> its description, in markdown; TensorBoard takes it from the first point of each tag.
    """

    def __init__(
        self,
        path: Path,
        keep: int | None = None,
        *,
        checksum: str | None = None,
        describe: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._describe = describe
        self._described = _tags(path, keep) if keep else set()
        self._file = GrowingFile(path, keep, checksum)
        if not keep:
            self._add(Event(wall_time=time(), file_version=_VERSION))

    def scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars(step, {tag: value})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, [self._value(tag, "scalars", simple_value=value) for tag, value in values.items()])

    def curves(self, xs: Sequence[int] | ndarray, values: Mapping[str, Sequence[float] | ndarray]) -> None:
        """Curves over the same ``xs``, whole numbers that grow, replacing what was written under their tags.

        A curve that is NaN in places, where a model does not write that state, is written at the others alone. From a
        first to a last ``-inf``, where it is below what is drawn, there is no line: both are written as NaN, which
        TensorBoard marks with a triangle, and those between are not.
        """
        columns = {tag: np.asarray(column, dtype=np.float64) for tag, column in values.items()}
        gaps = {tag: np.isnan(column) for tag, column in columns.items()}
        gaps = {tag: gap & ~gap.all() | _inside(np.isneginf(columns[tag])) for tag, gap in gaps.items()}
        with_gaps = [tag for tag, gap in gaps.items() if gap.any()]
        points = {tag: np.where(np.isneginf(column), np.nan, column).tolist() for tag, column in columns.items()}
        for at, x in enumerate(np.asarray(xs).tolist()):
            here = {tag: column[at] for tag, column in points.items()}
            for tag in with_gaps:
                if gaps[tag][at]:
                    del here[tag]
            self.scalars(x, here)

    def curve(self, tag: str, values: Sequence[float] | ndarray, xs: Sequence[int] | ndarray | None = None) -> None:
        """One curve; without ``xs`` over 0, 1, 2 …"""
        self.curves(range(len(values)) if xs is None else xs, {tag: values})

    def image(
        self,
        tag: str,
        pixels: UInt8[ndarray, "height width *rgb"],
        step: int,
        *,
        palette: UInt8[ndarray, "n 3"] | None = None,
    ) -> None:
        """``pixels``: [height width 3], or, with a ``palette`` of up to 256 colours, indices into it [height width]."""
        from PIL import Image  # Pillow is not needed before the first step

        png = BytesIO()
        picture = Image.fromarray(pixels)
        if palette is not None:
            picture.putpalette(palette.tobytes())
        picture.save(png, "PNG", compress_level=4)  # a third of the time of the default, 5 % larger
        height, width = pixels.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.getvalue())
        self._write(step, [self._value(tag, "images", image=image)])

    def text(self, tag: str, markdown: str, step: int) -> None:
        one = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()], tensor_shape=one)
        self._write(step, [self._value(tag, "text", tensor=tensor)])

    def hparams(self, values: Mapping[str, Hparam], metrics: Sequence[str]) -> None:
        """The run's row in the HParams table. ``metrics``: tags of scalars that become columns of it.

        TensorBoard takes the columns of all runs from one of them: give every run the same keys, of the same types, in
        the same order, those that matter most first.
        """
        # TensorBoard's table opens with five columns, of settings that are marked as different between runs. A single
        # run cannot know which are, so the first five are marked.
        infos = [
            api_pb2.HParamInfo(name=name, type=_hparam_type(value), differs=place < 5)
            for place, (name, value) in enumerate(values.items())
        ]
        names = [api_pb2.MetricName(tag=tag) for tag in metrics]
        experiment = api_pb2.Experiment(
            time_created_secs=time(),
            hparam_infos=infos,
            metric_infos=[api_pb2.MetricInfo(name=name, display_name=name.tag) for name in names],
        )
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time())
        for name, value in values.items():
            kind = _hparam_type(value)
            if kind == api_pb2.DATA_TYPE_BOOL:
                start.hparams[name].bool_value = value
            elif kind == api_pb2.DATA_TYPE_FLOAT64:
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = value
        self._write_hparams(_EXPERIMENT, experiment=experiment)
        self._write_hparams(_SESSION_START, session_start_info=start)

    def session_end(self, *, success: bool) -> None:
        """The state of the run in the HParams table."""
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time())
        self._write_hparams(_SESSION_END, session_end_info=end)

    @property
    def waiting(self) -> int:
        return self._file.waiting

    def flush(self) -> None:
        self._file.flush()

    def position(self) -> int:
        """The size in bytes, after a sync to the disk: ``keep`` for continuing from here."""
        return self._file.position()

    @property
    def checksum(self) -> str:
        return self._file.checksum

    def verify(self) -> None:
        self._file.verify()

    def close(self) -> None:
        self._file.close()

    def _value(self, tag: str, plugin: str, **content: object) -> Summary.Value:
        if tag in self._described:
            return Summary.Value(tag=tag, **content)
        self._described.add(tag)
        data = SummaryMetadata.PluginData(plugin_name=plugin)
        metadata = SummaryMetadata(
            summary_description=self._describe(tag), plugin_data=data, data_class=_CLASSES[plugin]
        )
        return Summary.Value(tag=tag, metadata=metadata, **content)

    def _write_hparams(self, tag: str, **content: object) -> None:
        data = plugin_data_pb2.HParamsPluginData(**content, version=0)
        plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
        self._write(0, [Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=_NO_TENSOR)])

    def _write(self, step: int, values: list[Summary.Value]) -> None:
        self._add(Event(wall_time=time(), step=step, summary=Summary(value=values)))

    def _add(self, event: Event) -> None:
        self._file.write(_record(event.SerializeToString()))


def _inside(below: ndarray) -> ndarray:
    """[N], bool: the places between the first and the last of each stretch of ``below`` [N]."""
    after = np.concatenate([[False], below[:-1]])
    before = np.concatenate([below[1:], [False]])
    return below & after & before


def _hparam_type(value: Hparam) -> int:
    if isinstance(value, bool):  # first, because a bool is an int
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def whole_records(path: Path) -> int | None:
    """Bytes up to the end of the last whole record: ``keep`` for adding to a file whose end was lost. None if there is
    no file, or it is empty.

    Raises:
        ValueError: the file does not begin like one of events.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return None
    records = list(_records(content))
    # After a power cut the last record may have its length and lack its content.
    if records and _checksum(records[-1][1]) != content[records[-1][0] - 4 : records[-1][0]]:
        records.pop()
    if content and not records:
        raise ValueError(f"{path} is not a file of TensorBoard events")
    return records[-1][0] if records else None


@dataclass
class Scalars:
    """A scalar tag: its description, in markdown, and its points, step -> value, the steps in ascending order."""

    description: str
    points: dict[int, float]


def read_scalars(path: Path) -> dict[str, Scalars]:
    """Every scalar tag of an event file, with the points that TensorBoard shows: a step that does not grow drops those
    from there on. What follows a cut or damaged record is left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a file of events.
    """
    tags: dict[str, Scalars] = {}
    records = list(_records(read_bytes(path)))
    if not records:
        raise ValueError(f"{path} is not a file of TensorBoard events")
    try:
        for _, payload in records:
            event = Event.FromString(payload)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars = tags.setdefault(value.tag, Scalars(value.metadata.summary_description, {}))
                    while scalars.points and next(reversed(scalars.points)) >= event.step:
                        scalars.points.popitem()
                    scalars.points[event.step] = value.simple_value
    except DecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return tags


_FRAME = 16  # bytes of a record besides its content: the length, its checksum, the checksum of the content


def _record(content: bytes) -> bytes:
    """A record in TensorFlow's framing. TensorBoard's own writer computes checksums byte by byte in Python, which takes
    longer than building the record."""
    size = struct.pack("<Q", len(content))
    return b"".join((size, _checksum(size), content, _checksum(content)))


def _checksum(content: bytes) -> bytes:
    """CRC-32C (Castagnoli), masked as in TensorFlow's record files."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(end in bytes, content) of every whole record."""
    at = 0
    while at + _FRAME <= len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        end = at + _FRAME + size
        if end > len(content) or _checksum(content[at : at + 8]) != content[at + 8 : at + 12]:
            return
        yield end, content[at + 12 : end - 4]
        at = end


def _tags(path: Path, size: int) -> set[str]:
    """All tags in the first ``size`` bytes of an event file.

    Raises:
        ValueError: they do not end with a whole record.
    """
    content = read_bytes(path)[:size]
    records = list(_records(content))
    if len(content) != (records[-1][0] if records else 0):
        raise ValueError(f"{path}, cut at byte {size}, ends inside a record")
    try:
        return {value.tag for _, payload in records for value in Event.FromString(payload).summary.value}
    except DecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
