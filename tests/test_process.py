"""A command's process ends sooner than Python would end it, with nothing lost; a library leaves its caller's alone."""

import gc
from pathlib import Path

from commandline import forked_code
from seqmem.cli.config import process

ENDS = """
import atexit, sys, threading, time
from seqmem.cli.config import process

class Tidied:
    def __del__(self):
        print("Python has tidied up")

tidied = Tidied()
process.begin()
files = [open("left_open", "w")]
with process.importing("what.is.not.there"):
    pass
files.append(open("left_open_later", "w"))
for file in files:
    file.write("whole")
if len(sys.argv) > 1:
    sys.stdout = open(sys.argv[1], "w")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
atexit.register(print, "first handler")
atexit.register(print, "last handler")
print("out")
process.end(3)
"""


def test_a_process_ends_with_all_that_is_to_be_done_and_no_more(tmp_path: Path) -> None:
    done = forked_code(ENDS, cwd=tmp_path)
    assert (done.code, done.err) == (3, "")
    assert done.out.split("\n") == ["out", "thread", "last handler", "first handler", ""]
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"] * 2


def test_what_cannot_be_written_is_left_to_python(tmp_path: Path) -> None:
    done = forked_code(ENDS, "/dev/full", cwd=tmp_path)
    assert done.code == 120  # of a stream that cannot be flushed
    assert "No space left on device" in done.err


def test_a_library_leaves_the_garbage_of_its_caller_alone(tmp_path: Path) -> None:
    frozen = gc.get_freeze_count()
    with process.importing("what.is.not.there"):
        assert gc.isenabled()
    process.end(3)
    assert gc.get_freeze_count() <= frozen
    code = """
import gc
from seqmem.cli.config import process
process.begin()
frozen = gc.get_freeze_count()
with process.importing("gc"):
    print(gc.isenabled())
with process.importing("what.is.not.there"):
    print(gc.isenabled())
    things = [[] for _ in range(1000)]
print(gc.isenabled(), gc.get_freeze_count() >= frozen + 1000)
"""
    assert forked_code(code, cwd=tmp_path).out == "True\nFalse\nTrue True\n"
