"""What ``sharing.keep`` does to a process; in one of its own, since it cannot be undone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = sys.implementation.name == "cpython" and (3, 12) <= sys.version_info < (3, 14)


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": f"{ROOT / 'supervisor'}:{ROOT / 'workers'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_code_is_not_counted_any_more_where_that_is_possible() -> None:
    said = run(
        """
        import sys
        from asgi_supervise.host import sharing

        class Thing:
            def work(self): return [1, "text of its own", lambda: 2]

        def counts():
            return [sys.getrefcount(o) for o in (Thing, Thing.work, Thing.work.__code__)]

        sharing.keep()
        before = counts()
        held = [[Thing, Thing.work, Thing.work.__code__] for _ in range(10)]
        print([after - count for after, count in zip(counts(), before)])
        for _ in range(1000):
            assert Thing().work()[0] == 1
        """
    )
    assert said == ("[0, 0, 0]" if KEPT else "[10, 10, 10]")


def test_everything_else_still_ends_with_its_last_reference() -> None:
    said = run(
        """
        import gc, weakref
        from asgi_supervise.host import sharing

        class Thing: pass

        thing, kept, cycle = Thing(), Thing(), Thing()
        file = open("/dev/null")
        ends = [weakref.ref(o) for o in (thing, file)]
        sharing.keep()
        file.close()
        del thing, file
        late = Thing()
        late.me = late
        end = weakref.ref(late)
        del late
        gc.collect()
        print([ref() is None for ref in ends], end() is None, type(kept).__name__)
        """
    )
    assert said == "[True, True] True Thing"


def test_a_method_in_c_does_not_keep_its_object() -> None:
    said = run(
        """
        import weakref
        from collections import deque
        from asgi_supervise.host import sharing

        things = deque()
        end, add = weakref.ref(things), things.append
        sharing.keep()
        del things, add
        print(end() is None)
        """
    )
    assert said == "True"


def test_what_is_immortal_already_is_left_as_it_is() -> None:
    """It may have more room for those who count without asking: 3.14 has seen to that."""
    said = run(
        """
        import sys
        from asgi_supervise.host import sharing

        def work(): return None, True, 1, "text"

        before = [sys.getrefcount(o) for o in (None, True, 1, type, list, "")]
        sharing.keep()
        print([sys.getrefcount(o) for o in (None, True, 1, type, list, "")] == before)
        """
    )
    assert said == "True" or not KEPT


def test_keeping_again_what_is_kept_takes_no_memory() -> None:
    said = run(
        """
        import gc, sys
        from asgi_supervise.host import sharing

        sharing.keep(), sharing.keep()
        before = gc.get_freeze_count(), sys.getallocatedblocks()
        for _ in range(100):
            sharing.keep()
        grown = gc.get_freeze_count() - before[0], sys.getallocatedblocks() - before[1]
        print(max(grown) < 50 or grown)
        """
    )
    assert said == "True"


def test_what_is_kept_twice_and_made_in_between_works() -> None:
    said = run(
        """
        from asgi_supervise.host import sharing

        sharing.keep()
        import dataclasses, decimal, enum, email.message

        @dataclasses.dataclass
        class Late:
            number: int

        sharing.keep()
        sharing.keep()
        Late.more = property(lambda self: self.number + 1)
        print(Late(1), Late(1).more, decimal.Decimal(1) / 3 > 0)
        del Late.more
        """
    )
    assert said == "Late(number=1) 2 True"


def test_lazy_objects_are_not_woken_up() -> None:
    said = run(
        """
        from asgi_supervise.host import sharing

        class Lazy:
            woken = False

            @property
            def __class__(self):
                Lazy.woken = True
                return int

        lazy = Lazy()
        sharing.keep()
        print(Lazy.woken)
        """
    )
    assert said == "False"


def test_it_survives_forks_and_threads() -> None:
    said = run(
        """
        import os, threading
        from asgi_supervise.host import sharing
        import json

        sharing.keep()
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                done = []
                threads = [
                    threading.Thread(
                        target=lambda: done.append(json.loads(json.dumps({"a": [1, 2]})))
                    )
                    for _ in range(8)
                ]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                os._exit(0 if len(done) == 8 else 1)
            print(os.waitpid(pid, 0)[1], end=" ")
        """
    )
    assert said == "0 0 0"
