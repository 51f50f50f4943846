"""One TensorBoard event file that can be cut back to where a checkpoint saw it end.

TensorBoard's own writers start another file each time and number them by the clock, so whatever a killed run wrote
after its last checkpoint would stay. Here the records are TensorBoard's, the file is ours. A run that is cut back and
goes on writes the same bytes again (wall times aside), so even a TensorBoard that was reading it all along goes on.

A *curve* is a scalar tag whose step is not the training step but a timestep, a distance or a length. Writing it again
replaces it: a step that does not grow makes TensorBoard drop the points of that tag from there on.
"""
# pyright: reportAttributeAccessIssue=false
# (protobuf makes the classes of its generated modules when they are imported)

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

# Readers of version 2 keep every point of a rewritten tag; of version 1, the last writing. TensorBoard's fast reader
# does so whatever the version, but it does not exist for every platform.
_VERSION = "brain.Event:1"


# With its class of data, TensorBoard's fast reader keeps a tag's description; without, it makes metadata of its own.
_CLASSES = {"scalars": DATA_CLASS_SCALAR, "images": DATA_CLASS_BLOB_SEQUENCE, "text": DATA_CLASS_TENSOR}


Hparam = str | bool | int | float


class GrowingFile:
    """A file that grows at its end, from its first ``keep`` bytes (None: from nothing).

    What is written stays in memory until ``flush``. A full disk is an OSError there and nowhere else: what could not
    be written is dropped, so closing the file afterwards is safe.

    Raises:
        ValueError: the file has fewer than ``keep`` bytes.
    """

    def __init__(self, path: Path, keep: int | None = None) -> None:
        size = path.stat().st_size if keep else 0
        if keep and size < keep:
            raise ValueError(f"{path} ends at byte {size}, before byte {keep}")
        self._pending = bytearray()
        self._file = path.open("r+b" if keep else "wb", buffering=0)
        self._file.truncate(keep or 0)
        self._file.seek(0, os.SEEK_END)

    def write(self, content: bytes) -> None:
        self._pending += content

    @property
    def waiting(self) -> int:
        """Bytes that only this process has."""
        return len(self._pending)

    def flush(self) -> None:
        """Hand everything to the system: from here on it survives this process."""
        pending, self._pending = memoryview(self._pending), bytearray()
        while pending:
            pending = pending[self._file.write(pending) :]

    def position(self) -> int:
        """Bytes so far, all of them on the disk: from here on they survive this machine."""
        self.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        try:
            if not self._file.closed:
                self.flush()
        finally:
            self._file.close()


class EventFile:
    """Written on ``flush``, ``position`` and ``close``; all of them raise OSError when the disk is full.

    ``keep``: as for ``GrowingFile``; a byte inside a record is a ValueError. ``describe``: from a tag to its
    description, in markdown; TensorBoard takes it from the first point of each tag.
    """

    def __init__(self, path: Path, keep: int | None = None, *, describe: Callable[[str], str] = lambda _: "") -> None:
        self._describe = describe
        self._described = _tags(path, keep) if keep else set()
        self._file = GrowingFile(path, keep)
        if not keep:
            self._add(Event(wall_time=time(), file_version=_VERSION))

    def scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars(step, {tag: value})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, [self._value(tag, "scalars", simple_value=value) for tag, value in values.items()])

    def curves(self, xs: Sequence[int] | ndarray, values: Mapping[str, Sequence[float] | ndarray]) -> None:
        """Curves over the same ``xs``, whole numbers that grow, replacing what was written under their tags.

        A curve that is NaN in places, where a model does not write that state, is written at the others alone.
        """
        columns = {tag: np.asarray(column, dtype=np.float64) for tag, column in values.items()}
        gaps = {tag: np.isnan(column) for tag, column in columns.items()}
        with_gaps = [tag for tag, gap in gaps.items() if gap.any() and not gap.all()]
        points = {tag: column.tolist() for tag, column in columns.items()}
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
        """``pixels``: [height width 3], or, with a ``palette`` of 256 colours or less, which of them [height width]."""
        from PIL import Image  # not before the first step

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
        # TensorBoard's table starts with five columns, of those that are said to differ between runs. Which do, one run
        # cannot know: the first five are said to.
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
        self._write_hparams(hparams_metadata.EXPERIMENT_TAG, experiment=experiment)
        self._write_hparams(hparams_metadata.SESSION_START_INFO_TAG, session_start_info=start)

    def session_end(self, *, success: bool) -> None:
        """What the HParams table says became of the run."""
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time())
        self._write_hparams(hparams_metadata.SESSION_END_INFO_TAG, session_end_info=end)

    @property
    def waiting(self) -> int:
        return self._file.waiting

    def flush(self) -> None:
        self._file.flush()

    def position(self) -> int:
        """Bytes so far, all on the disk: what to give as ``keep`` to go on from here."""
        return self._file.position()

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
        data = plugin_data_pb2.HParamsPluginData(**content)
        metadata = hparams_metadata.create_summary_metadata(data)
        self._write(0, [Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)])

    def _write(self, step: int, values: list[Summary.Value]) -> None:
        self._add(Event(wall_time=time(), step=step, summary=Summary(value=values)))

    def _add(self, event: Event) -> None:
        self._file.write(_record(event.SerializeToString()))


def _hparam_type(value: Hparam) -> int:
    if isinstance(value, bool):  # first, because a bool is an int
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def whole_records(path: Path) -> int | None:
    """Bytes up to the end of the last record that is whole: what to give as ``keep`` to add to a file whose end was
    lost. None if there is no file, or nothing in it.

    Raises:
        ValueError: the file does not begin like one of events.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    found = list(_records(content))
    # After a power cut the last one may have its length and lack its content.
    if found and _checksum(found[-1][1]) != content[found[-1][0] - 4 : found[-1][0]]:
        found.pop()
    if content and not found:
        raise ValueError(f"{path} is not a file of TensorBoard events")
    return found[-1][0] if found else None


_AROUND = 16  # bytes of a record besides its content: the length, a checksum of it, a checksum of the content


def _record(content: bytes) -> bytes:
    """As TensorFlow frames it. TensorBoard's own writer takes the checksums byte by byte in Python, which takes longer
    than making the record."""
    size = struct.pack("<Q", len(content))
    return b"".join((size, _checksum(size), content, _checksum(content)))


def _checksum(content: bytes) -> bytes:
    """CRC-32C (Castagnoli), rotated and shifted as record files have it."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(where it ends, what is in it) for every whole record."""
    at = 0
    while at + _AROUND <= len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        end = at + _AROUND + size
        if end > len(content) or _checksum(content[at : at + 8]) != content[at + 8 : at + 12]:
            return
        yield end, content[at + 12 : end - 4]
        at = end


def _tags(path: Path, size: int) -> set[str]:
    """All tags in the first ``size`` bytes of an event file.

    Raises:
        ValueError: they do not end with a whole record.
    """
    content = path.read_bytes()[:size]
    records = list(_records(content))
    if len(content) != (records[-1][0] if records else 0):
        raise ValueError(f"{path}, cut at byte {size}, ends inside a record")
    try:
        return {value.tag for _, payload in records for value in Event.FromString(payload).summary.value}
    except DecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
