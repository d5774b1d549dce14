"""A compiled program as XLA writes it, read as a list of kernels and of what each moves through the device's memory.

A kernel is an operation of the entry computation that runs on the device: a fusion, a copy, a call of a library.  It
moves its operands, which it reads, and its results, which it writes, each once and whole.  Operations in a loop count
as often as the loop runs.

What this leaves out: the work space of cuDNN and cuBLAS and their own transposes, and what a library or a fusion reads
again; what it has too much: what a cache still holds of the kernel before.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([0-9,]*)\]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_OPERATION = re.compile(r"(\(.*?\)|\S+) ([\w\-]+)\(")
_NO_KERNEL = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota")
_CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


class Frame(NamedTuple):
    """Where an operation was written."""

    file: str
    function: str
    line: int


class Kernel(NamedTuple):
    """One operation that runs on the device."""

    name: str
    operation: str  # of the entry computation: "fusion", "copy", or the target of a "custom-call"
    moved: int  # bytes
    arrays: tuple[tuple[str, tuple[int, ...]], ...]  # type and shape of operands and results
    op_name: str  # of JAX: "jit(train_step)/transpose(jvp())/mul"
    operations: frozenset[str]  # that it computes
    frames: frozenset[Frame]  # of all of them, and of their callers
    source: Frame | None  # the innermost one of the package, or else of all, of its result


class _Instruction(NamedTuple):
    name: str
    operation: str
    shape: str
    operands: tuple[str, ...]
    text: str


def read(text: str) -> list[Kernel]:
    """Returns the kernels of an optimised program, `compiled.as_text()`, in their order."""
    frames = _Frames(text)
    computations = dict(_computations(text))
    entry = next(name for name in computations if name.startswith("ENTRY "))
    return list(_kernels(computations, entry, frames))


def _kernels(computations: Mapping[str, list[_Instruction]], name: str, frames: "_Frames") -> Iterator[Kernel]:
    shapes = {each.name: each.shape for each in computations[name]}
    for each in computations[name]:
        called = [inner for inner in _CALLED.findall(each.text) if inner in computations]
        if each.operation in ("while", "call"):
            trips = _TRIPS.search(each.text)
            for _ in range(int(trips[1]) if trips else 1):
                yield from _kernels(computations, called[-1], frames)
        elif each.operation not in _NO_KERNEL:
            arrays = [_arrays(shape) for shape in (each.shape, *(shapes[operand] for operand in each.operands))]
            inner = [instruction for inner in called for instruction in computations[inner]] or [each]
            target = re.search(r'custom_call_target="([^"]*)"', each.text)
            op_name = re.search(r'op_name="([^"]*)"', each.text)
            found = [frames.of(instruction.text) for instruction in inner]
            yield Kernel(
                each.name,
                target[1] if target else each.operation,
                sum(_BYTES[dtype] * math.prod(shape) for array in arrays for dtype, shape in array),
                tuple(pair for array in arrays for pair in array),
                op_name[1] if op_name else "",
                frozenset(instruction.operation for instruction in inner),
                frozenset(frame for stack in found for frame in stack),
                frames.innermost([frames.of(each.text), *reversed(found)]),
            )


def _computations(text: str) -> Iterator[tuple[str, list[_Instruction]]]:
    """Yields names and instructions; the entry's name begins with "ENTRY "."""
    for block in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", text)[1:]:
        head, *lines = block.splitlines()
        name = re.match(r"(ENTRY )?%?([\w.\-]+)", head)
        if name is not None:
            found = [_instruction(line) for line in lines]
            yield (name[1] or "") + name[2], [each for each in found if each is not None]


def _instruction(line: str) -> _Instruction | None:
    found = _INSTRUCTION.match(line)
    operation = None if found is None else _OPERATION.match(found[2])
    if found is None or operation is None:
        return None
    depth, start = 1, operation.end()
    for end in range(start, len(found[2])):
        depth += (found[2][end] == "(") - (found[2][end] == ")")
        if depth == 0:
            break
    else:
        return None
    operands = re.findall(r"%([\w.\-]+)", found[2][start:end])
    return _Instruction(found[1], operation[2], operation[1], tuple(operands), found[2][end:])


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(dtype, tuple(map(int, filter(None, sizes.split(","))))) for dtype, sizes in _ARRAY.findall(shape)]


class _Frames:
    """The tables of a program's text that say where each of its operations was written."""

    def __init__(self, text: str) -> None:
        files, functions = (self._names(text, title) for title in ("FileNames", "FunctionNames"))
        locations = {
            number: Frame(files[int(file)], functions[int(function)], int(line))
            for number, file, function, line in re.findall(
                r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)", text, re.MULTILINE
            )
        }
        # XLA counts parents from one further: 1 means none.
        self._stacks = {
            int(number): (locations[place], int(parent) - 1)
            for number, place, parent in re.findall(
                r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", text, re.MULTILINE
            )
        }

    @staticmethod
    def _names(text: str, title: str) -> dict[int, str]:
        block = re.search(rf"^{title}\n((?:\d+ \".*\"\n)*)", text, re.MULTILINE)
        return {int(number): name for number, name in re.findall(r"(\d+) \"(.*)\"", block[1] if block else "")}

    def of(self, text: str) -> tuple[Frame, ...]:
        """Returns the stack of an instruction, innermost first; empty where none is known."""
        found = re.search(r"stack_frame_id=(\d+)", text)
        return self._stack(int(found[1])) if found else ()

    @functools.cache  # noqa: B019, the object lives as long as one program is read
    def _stack(self, number: int) -> tuple[Frame, ...]:
        if number not in self._stacks:
            return ()
        frame, parent = self._stacks[number]
        return (frame, *self._stack(parent))

    @staticmethod
    def innermost(stacks: list[tuple[Frame, ...]]) -> Frame | None:
        """Returns the innermost frame of the first stack that has one of this package, or else of any."""
        known = [stack for stack in stacks if stack]
        own = [frame for stack in known for frame in stack if "/imginav_jax/" in frame.file]
        return own[0] if own else known[0][0] if known else None
