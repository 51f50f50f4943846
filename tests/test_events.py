"""Event files, read back by TensorBoard's own readers; and the heat map's pixels."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, DataType  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.summary.writer.record_writer import RecordWriter

from commandline import TINY, Completed, largest_file, only_run
from seqmem.record.events import EventFile, GrowingFile, whole_records
from seqmem.record.pictures.heatmap import HEIGHT, PLOT, UNKNOWN, WIDTH, colours, heatmap, visible
from seqmem.runs.files import EVENTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.out.tfevents.0.seqmem"


def read(path: Path) -> list:
    return [Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load()]


def accumulated(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def test_scalars_are_read_back(path: Path) -> None:
    events = EventFile(path)
    events.scalar("train/loss", 1.5, 10)
    events.scalars(20, {"train/loss": 0.25, "train/learning_rate": 0.003})
    events.close()
    board = accumulated(path)
    assert [(e.step, e.value) for e in board.Scalars("train/loss")] == [(10, 1.5), (20, 0.25)]
    assert [(e.step, e.value) for e in board.Scalars("train/learning_rate")] == [(20, pytest.approx(0.003))]


def test_records_are_framed_as_tensorboards_own_writer_frames_them(path: Path) -> None:
    events = EventFile(path)
    for step in range(50):
        events.scalars(step, {"gradient/half_life": 0.37 * step, "a": step})
    events.close()
    own = BytesIO()
    writer = RecordWriter(own)
    for raw in RawEventFileLoader(str(path)).Load():
        writer.write(raw)
    assert own.getvalue() == path.read_bytes()


def test_the_first_point_of_a_tag_carries_its_description_and_kind(path: Path) -> None:
    events = EventFile(path, describe=lambda tag: f"about **{tag}**")
    events.scalar("a", 1.0, 0)
    events.scalar("a", 2.0, 1)
    events.text("t", "*words*", 0)
    events.image("i", np.zeros((2, 3, 3), np.uint8), 0)
    events.close()
    values = [value for event in read(path) for value in event.summary.value]
    first, second, text, image = values
    assert (first.metadata.summary_description, first.metadata.plugin_data.plugin_name) == ("about **a**", "scalars")
    assert not second.HasField("metadata")
    assert (text.metadata.summary_description, text.metadata.plugin_data.plugin_name) == ("about **t**", "text")
    assert (image.metadata.summary_description, image.metadata.plugin_data.plugin_name) == ("about **i**", "images")
    assert text.tensor.string_val[0] == b"*words*"


@pytest.mark.parametrize("reader", [EventAccumulator, PluginAccumulator])
def test_rewriting_a_curve_replaces_it(path: Path, reader: type) -> None:
    """For the readers in Python; test_watch checks the fast one."""
    events = EventFile(path)
    events.scalar("eval/score", 0.5, 0)
    for latest in (3.0, 2.0, 1.0):
        events.curve("latest", [latest, latest / 2, latest / 4])
        events.scalar("eval/score", latest, int(10 / latest))
    events.curves([7, 50], {"by length": [0.5, 1.0], "other": np.array([1.0, 2.0])})
    events.close()
    board = reader(str(path)).Reload()

    def points(tag: str) -> list[tuple[int, float]]:
        if reader is EventAccumulator:
            return [(e.step, e.value) for e in board.Scalars(tag)]
        return [(e.step, e.tensor_proto.float_val[0]) for e in board.Tensors(tag)]

    assert points("latest") == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert points("eval/score") == [(0, 0.5), (3, 3.0), (5, 2.0), (10, 1.0)]
    assert points("by length") == [(7, 0.5), (50, 1.0)]
    assert points("other") == [(7, 1.0), (50, 2.0)]


def test_an_image_is_read_back(path: Path) -> None:
    rgb = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    events = EventFile(path)
    events.image("heat", rgb, 7)
    events.close()
    (image,) = accumulated(path).Images("heat")
    assert (image.step, image.height, image.width) == (7, 4, 5)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(image.encoded_image_string))), rgb)


def test_hparams_stay_in_the_file_with_their_types(path: Path) -> None:
    events = EventFile(path)
    events.hparams({"cell": "lstm", "lr": 0.01, "seed": 3, "tied": True}, ["result/score"])
    events.session_end(success=False)
    events.close()
    values = [value for event in read(path) for value in event.summary.value]
    content = {value.tag: value.metadata.plugin_data.content for value in values}
    for value in values:  # as TensorBoard's own writer would have made it
        data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
        expected = metadata.create_summary_metadata(data)
        assert HParamsPluginData.FromString(expected.plugin_data.content) == data
        expected.plugin_data.content = value.metadata.plugin_data.content  # but for the order of a map, which is any
        assert value.metadata == expected
        assert value.tensor == metadata.NULL_TENSOR
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    kinds = {info.name: DataType.Name(info.type) for info in experiment.hparam_infos}
    assert kinds == {
        "cell": "DATA_TYPE_STRING",
        "lr": "DATA_TYPE_FLOAT64",
        "seed": "DATA_TYPE_FLOAT64",
        "tied": "DATA_TYPE_BOOL",
    }
    assert [info.name.tag for info in experiment.metric_infos] == ["result/score"]
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["cell"].string_value == "lstm"
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["tied"].bool_value is True
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.status == STATUS_FAILURE


def test_a_file_truncated_and_rewritten_is_the_same(path: Path, tmp_path: Path) -> None:
    def begin(events: EventFile) -> None:
        events.curve("c", [1.0, 2.0])
        events.scalar("s", 0.5, 0)

    def end(events: EventFile) -> None:
        events.curve("c", [3.0, 4.0])
        events.scalar("s", 0.25, 1)
        events.scalar("new", 1.0, 1)

    whole = EventFile(tmp_path / "whole", describe=str.upper)
    begin(whole)
    end(whole)
    whole.close()

    cut = EventFile(path, describe=str.upper)
    begin(cut)
    stored = cut.position()
    assert stored == path.stat().st_size
    cut.scalar("lost", 1.0, 5)
    cut.close()
    with path.open("ab") as file:
        file.write(b"half a rec")
    cut = EventFile(path, stored, describe=str.upper)
    end(cut)
    cut.close()

    def timeless(file_path: Path) -> list[bytes]:
        events_read = read(file_path)
        for event in events_read:
            event.ClearField("wall_time")
        return [event.SerializeToString() for event in events_read]

    assert timeless(path) == timeless(tmp_path / "whole")
    assert path.stat().st_size == (tmp_path / "whole").stat().st_size


def test_a_file_that_is_too_short_or_cut_inside_a_record_is_refused(path: Path) -> None:
    events = EventFile(path)
    events.scalar("a", 1.0, 0)
    events.close()
    size = path.stat().st_size
    with pytest.raises(ValueError, match=f"ends at byte {size}, before byte {size + 1}"):
        EventFile(path, size + 1)
    for inside in (size - 1, size - 30):
        with pytest.raises(ValueError, match="ends inside a record"):
            EventFile(path, inside)


@pytest.mark.parametrize(
    "tear",
    [
        lambda content, end: content[: end + 5],
        lambda content, _: content[:-1],
        lambda content, end: content[: end + 12] + bytes(len(content) - end - 12),  # a length without its content
        lambda content, end: content[:end] + bytes(4096),
        lambda content, end: content[:end],
    ],
)
def test_whole_records_stay_and_new_ones_follow(tear: Callable[[bytes, int], bytes], path: Path) -> None:
    events = EventFile(path, describe=lambda tag: f"about {tag}")
    events.curve("kept", [1.0, 2.0])
    end = events.position()
    events.scalar("torn", 5.0, 7)
    events.close()
    assert whole_records(path) == path.stat().st_size
    path.write_bytes(tear(path.read_bytes(), end))
    assert whole_records(path) == end
    events = EventFile(path, whole_records(path), describe=lambda tag: f"about {tag}")
    events.curve("kept", [3.0])
    events.scalar("torn", 6.0, 8)
    events.close()
    values = [(event.step, value) for event in read(path) for value in event.summary.value]
    assert [(step, value.tag, value.simple_value) for step, value in values] == [
        (0, "kept", 1.0), (1, "kept", 2.0), (0, "kept", 3.0), (8, "torn", 6.0),
    ]  # fmt: skip
    assert [value.metadata.summary_description for _, value in values] == ["about kept", "", "", "about torn"]


def test_a_file_without_records_is_started_afresh_or_refused(path: Path) -> None:
    assert whole_records(path) is None
    path.write_bytes(b"")
    assert whole_records(path) is None
    for content in (b"garbage", b"garbage" * 100, bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a file of TensorBoard events"):
            whole_records(path)


def test_eval_appends_to_a_truncated_file(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    assert typed("train", *TINY, "quiet=true").code == 0
    run = only_run(tmp_path)
    path = run / EVENTS
    path.write_bytes(path.read_bytes()[:-3])
    completed = typed("eval", str(run), "seq_len=8,16", "sequences=8")
    assert (completed.code, completed.err) == (0, "")
    assert [e.step for e in accumulated(path).Scalars("eval/score_by_length (seqmem eval)")] == [8, 16]
    assert accumulated(path).Scalars("eval/score")
    path.write_bytes(b"garbage")
    completed = typed("eval", str(run), "seq_len=8", "sequences=8")
    completed.refuses(f"{EVENTS} cannot be added to", code=1, verb="eval")
    assert path.read_bytes() == b"garbage"
    path.unlink()
    assert typed("eval", str(run), "seq_len=8", "sequences=8").code == 0
    assert [e.step for e in accumulated(path).Scalars("eval/score_by_length (seqmem eval)")] == [8]


def test_writes_are_buffered_until_a_flush(path: Path) -> None:
    file = GrowingFile(path)
    file.write(b"one")
    assert (path.read_bytes(), file.waiting) == (b"", 3)
    file.flush()
    assert file.waiting == 0
    assert path.read_bytes() == b"one"
    file.write(b" two")
    assert file.position() == 7
    file.write(b" three")
    file.close()
    file.close()
    assert path.read_bytes() == b"one two three"
    cut = GrowingFile(path, 3)
    cut.write(b"!")
    cut.close()
    assert path.read_bytes() == b"one!"


def test_a_full_disk_is_an_error_once_and_closing_is_safe(path: Path) -> None:
    events = EventFile(path)
    events.flush()
    events.curve("c", np.zeros(200))
    with largest_file(1000):
        with pytest.raises(OSError, match="File too large"):
            events.flush()
        assert path.stat().st_size == 1000  # as much as fits
        events.close()


def test_a_curve_does_not_touch_the_disk_before_it_is_flushed(path: Path) -> None:
    """Buffering turns the 500 points of a trace into one write instead of 500."""
    events = EventFile(path)
    events.flush()
    before = path.stat().st_size
    events.curve("gradient/log10 by timestep", np.linspace(-12, 0, 500))
    assert path.stat().st_size == before
    assert events.waiting > 500
    buffered = events.waiting
    events.flush()
    assert path.stat().st_size == before + buffered
    events.close()


def at(picture: np.ndarray, timestep: int, trace: int, timesteps: int, traces: int) -> list[int]:
    """The colour at the centre of a map's cell."""
    left, top, right, bottom = PLOT
    x = left + int((timestep + 0.5) * (right - left) / timesteps)
    y = top + int((trace + 0.5) * (bottom - top) / traces)
    return picture[y, x].tolist()


def test_the_heat_map_shows_every_number_at_its_place() -> None:
    values = np.array([[-8.0, -4.0, 0.0], [-99.0, -np.inf, 5.0]])
    picture = heatmap(values, [0, 100])
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    darkest, middle, brightest = [0, 0, 4], [188, 55, 84], [252, 255, 164]
    assert [at(picture, t, 0, 3, 2) for t in range(3)] == [darkest, middle, brightest]
    # Values beyond the range take its ends; underflow is grey, not dark.
    assert [at(picture, t, 1, 3, 2) for t in range(3)] == [darkest, list(UNKNOWN), brightest]


def test_equal_numbers_have_equal_colours_in_every_picture() -> None:
    alone = heatmap(np.full((1, 1), -3.0), [0])
    among = heatmap(np.array([[-8.0, -3.0], [0.0, -1.0]]), [0, 1])
    assert at(alone, 0, 0, 1, 1) == at(among, 1, 0, 2, 2) == colours(np.array(-3.0)).tolist()


def test_brighter_is_more() -> None:
    light = colours(np.linspace(-8, 0, 100)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()


def test_nan_is_unknown_and_infinity_is_the_top() -> None:
    assert colours(np.array([np.nan, np.inf])).tolist() == [list(UNKNOWN), [252, 255, 164]]


@pytest.mark.parametrize(("traces", "timesteps"), [(1, 1), (2, 7), (300, 1000)])
def test_a_heat_map_of_any_size_fills_its_frame(traces: int, timesteps: int) -> None:
    left, top, right, bottom = PLOT
    picture = heatmap(np.full((len(visible(traces)), timesteps), -4.0), [1000 * n for n in range(traces)])
    inside = picture[top : bottom - 1, left : right - 1]
    assert (inside == [188, 55, 84]).all()


def test_a_picture_of_many_traces_shows_the_nearest_to_each_line() -> None:
    """One trace for each line of pixels, labelled with its own step."""
    left, top, right, bottom = PLOT
    assert visible(5).tolist() == [0, 1, 2, 3, 4]
    few = visible(1000)
    assert len(few) == bottom - top
    assert few[0] == 0
    assert set(np.diff(few)) == {6, 7}
    ramp = np.linspace(-8, 0, 1000)
    picture = heatmap(ramp[few, None], range(0, 10_000, 10))
    assert picture[top:bottom, (left + right) // 2].tolist()[1:-1] == colours(ramp[few]).tolist()[1:-1]
    # The labels at the left depend on the steps.
    other = heatmap(np.zeros((len(few), 1)), range(0, 20_000, 20))
    assert (picture[:, : left - 6] != other[:, : left - 6]).any()
