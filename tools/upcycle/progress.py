"""Progress on stderr: one updating line on a terminal, sparse lines elsewhere."""
import sys
import time

_state = {"line": 0, "label": None, "shown": 0.0, "start": time.monotonic()}
SPARSE_SECONDS = 10.0


def _elapsed():
    return f"[{time.monotonic() - _state['start']:5.1f}s]"


def note(text):
    """A line of its own."""
    end()
    print(f"upcycle {_elapsed()} {text}", file=sys.stderr, flush=True)


def step(label, done, total):
    """`done` of `total` parts of the stage `label` are finished."""
    now, fresh = time.monotonic(), label != _state["label"]
    tty = sys.stderr.isatty()
    if not fresh and done < total and now - _state["shown"] < (0.1 if tty else SPARSE_SECONDS):
        return
    _state.update(label=label, shown=now)
    text = f"upcycle {_elapsed()} {label} {100 * done // max(total, 1)}%"
    if tty:
        print("\r" + text.ljust(_state["line"]), end="", file=sys.stderr, flush=True)
        _state["line"] = len(text)
    else:
        print(text, file=sys.stderr, flush=True)


def end():
    """Leave the updating line, if any."""
    if _state["line"]:
        print(file=sys.stderr)
    _state.update(line=0, label=None)
