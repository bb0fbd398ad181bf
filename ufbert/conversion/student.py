"""What `ufbert convert` is asked to distil a model into: a feedforward layer for each layer, or fewer layers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ufbert.errors import ConfigError
from ufbert.model.shapes import FeedforwardShape, parse_shape

__all__ = ["StudentRequest", "name_layers", "parse_layers", "read_student"]

AUTO = "auto"


@dataclass(frozen=True)
class StudentRequest:
    """What the student is to be, as it can be said before the original is known."""

    options: str
    """The options that say it, for errors."""
    shapes: tuple[FeedforwardShape, ...] = ()
    """One for all layers to convert, or one for each layer of the original; empty where layers are dropped."""
    layers: tuple[int, ...] = ()
    """The layers to convert, from 0 on; empty for all."""
    dropped: tuple[int, ...] = ()
    """The layers to leave out whole."""
    random_routing: bool = False
    """Nodes take neurons of the original at random."""
    keep: float | None = None
    """What the student is to keep of the original's quality, above 0 and below 1: its layers are chosen for that."""
    speed: float | None = None
    """How many times as fast as the original it is to be, above 1: its layers are chosen for that."""
    token_rows: int = 0
    """Of the layers to be chosen: tokens that have a row of their own beside the neurons."""
    relu: bool = False
    """All dense layers stay as wide as they are, get ReLU, and learn to use few of their neurons for a token."""

    @property
    def has_token_rows(self) -> bool:
        """Whether any layer is to have rows, or may get them."""
        return self.token_rows > 0 or any(shape.token_rows for shape in self.shapes)

    @property
    def automatic(self) -> bool:
        """Whether the shapes are chosen by what is measured; `shapes` is empty until they are."""
        return self.keep is not None or self.speed is not None

    def __str__(self) -> str:
        """What was done, for the model card."""
        if self.dropped:
            return f"without its layers {name_layers(self.dropped)}, whose work the others have learned by distillation"
        if self.relu:
            return "its dense feedforward layers distilled into as wide ones with ReLU that use few neurons for a token"
        shapes = tuple(self.shapes[i] for i in self.layers) if self.automatic and self.layers else self.shapes
        one = len(set(shapes)) == 1
        chosen = ", chosen layer by layer by measured error and time" if self.automatic else ""
        into = shapes[0].describe() if one else ", ".join(map(str, shapes))
        which = f" {name_layers(self.layers)}" if self.layers else ""
        at_random = ", whose nodes were given neurons at random" if self.random_routing else ""
        return f"its dense feedforward layers{which} distilled into {into}{at_random}{chosen}"


def read_student(
    *,
    trees: int | None = None,
    depth: int | None = None,
    shared: int = 0,
    dense: int | None = None,
    token_rows: int = 0,
    shape: tuple[str, ...] = (),
    layers: str | None = None,
    drop_layers: str | None = None,
    random_routing: bool = False,
    keep: float | None = None,
    speed: str | None = None,
    relu: bool = False,
) -> StudentRequest | None:
    """The student that the options ask for; None if they ask for an exact conversion.

    Raises `ConfigError` in the options' names for values that cannot be, or do not go together.
    """
    of_trees = trees is not None or depth is not None
    if keep is not None or speed is not None or AUTO in shape:
        absent = {
            "--trees": trees is None and depth is None,
            "--shared": not shared,
            "--dense": dense is None,
            "--drop-layers": drop_layers is None,
            "--random-routing": not random_routing,
            "--relu": not relu,
        }
        return _automatic(
            shape, keep, speed, token_rows, layers, [name for name, is_absent in absent.items() if not is_absent]
        )
    kinds = {"--trees": of_trees, "--dense": dense is not None, "--shape": bool(shape)}
    given = [name for name, there in kinds.items() if there]
    others = {
        "--shared": bool(shared),
        "--token-rows": bool(token_rows),
        "--layers": layers is not None,
        "--random-routing": random_routing,
    }
    if relu:
        others |= {"--drop-layers": drop_layers is not None}
        if beside := [*given, *(name for name, there in others.items() if there)]:
            raise ConfigError(
                f"--relu keeps every layer and all of its neurons; give it without {', '.join(beside)}, and convert "
                "what comes out in a second step"
            )
        return StudentRequest("--relu", relu=True)
    if drop_layers is not None:
        if beside := [*given, *(name for name, there in others.items() if there)]:
            raise ConfigError(
                f"--drop-layers leaves whole layers out and converts no others; give it without {', '.join(beside)}"
            )
        return StudentRequest(f"--drop-layers {drop_layers}", dropped=parse_layers("--drop-layers", drop_layers))
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} both say what the layers become; give one of them")
    if shared and shape:
        raise ConfigError(f"--shared {shared}: --shape writes shared neurons itself, as in 12x6+64; leave it out")
    if token_rows and shape:
        raise ConfigError(
            f"--token-rows {token_rows}: --shape writes rows itself, as in dense:216+rows:{token_rows}; leave it out"
        )
    if shared and not of_trees:
        raise ConfigError(f"--shared {shared} without trees to stand beside: give --trees and --depth too")
    if not given:
        if layers is not None:
            raise ConfigError(
                f"--layers {layers} says where, not what: give --trees and --depth, --dense or --shape too"
            )
        if token_rows:
            raise ConfigError(
                f"--token-rows {token_rows} stand beside neurons: give --trees and --depth or --dense too; --dense 0 "
                "is for rows alone"
            )
        if random_routing:
            raise ConfigError("--random-routing is of trees: give --trees and --depth too")
        return None
    shapes: tuple[FeedforwardShape, ...]
    if of_trees:
        shapes = (_trees(trees, depth, shared),)
        options = f"--trees {trees} --depth {depth}" + (f" --shared {shared}" if shared else "")
    elif dense is not None:
        if dense < 0:
            raise ConfigError(f"--dense must be at least 0, not {dense}")
        shapes, options = (FeedforwardShape.of_dense(dense),), f"--dense {dense}"
    else:
        shapes, options = _spelled(shape), f"--shape {','.join(shape)}"
    if token_rows:
        shapes = tuple(one.with_rows(token_rows) for one in shapes)
        options += f" --token-rows {token_rows}"
    if layers is not None and len(shapes) > 1:
        raise ConfigError(
            f"--layers {layers}: --shape has an entry for each layer already; give one shape, or no --layers"
        )
    if random_routing and not any(s.kind == "fff" for s in shapes):
        raise ConfigError(f"--random-routing is of trees, and {options} makes none; leave it out")
    chosen = () if layers is None else parse_layers("--layers", layers)
    return StudentRequest(options, shapes, chosen, random_routing=random_routing)


def _automatic(
    shape: tuple[str, ...],
    keep: float | None,
    speed: str | None,
    token_rows: int,
    layers: str | None,
    beside: list[str],
) -> StudentRequest:
    """Shapes that are to be chosen; `beside` names the options given that say what the layers become."""
    spelled = ",".join(shape)
    if keep is not None and not 0 < keep < 1:
        raise ConfigError(f"--keep {keep:g}: give a share of the original's quality above 0 and below 1, such as 0.97")
    times = None if speed is None else _times(speed)
    if keep is not None and speed is None and shape != (AUTO,):
        others = f", and leave out {', '.join(beside)}" if beside else ""
        raise ConfigError(f"--keep {keep:g} is for shapes that are chosen: give --shape auto{others}")
    option = "--shape auto" if speed is None else f"--speed {speed}"
    if shape not in ((), (AUTO,)):
        if AUTO in shape:
            raise ConfigError(f"--shape {spelled}: auto chooses for all layers; give it alone, or limited by --layers")
        beside = [f"--shape {spelled}", *beside]
    if beside:
        raise ConfigError(f"{option} chooses the shape of each layer itself; give it without {', '.join(beside)}")
    if keep is None and times is None:
        raise ConfigError("--shape auto must know what to choose for: give --keep 0.97, --speed 2x or both")
    # The same however it was written, as a resumed conversion must have the same.
    given = [f"--shape {AUTO}"] if times is None else []
    given += [] if keep is None else [f"--keep {keep:g}"]
    given += [] if times is None else [f"--speed {times:g}x"]
    given += [f"--token-rows {token_rows}"] if token_rows else []
    chosen = () if layers is None else parse_layers("--layers", layers)
    return StudentRequest(" ".join(given), layers=chosen, keep=keep, speed=times, token_rows=token_rows)


def _times(speed: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)x?\s*", speed)
    if match is None or not float(match[1]) > 1:
        raise ConfigError(
            f"--speed {speed}: say how many times as fast as the original the student is to be, above 1, such as 2x"
        )
    return float(match[1])


def _trees(trees: int | None, depth: int | None, shared: int) -> FeedforwardShape:
    if trees is None or depth is None:
        given, absent = ("--depth", "--trees") if trees is None else ("--trees", "--depth")
        raise ConfigError(f"{given} without {absent}: give both, for example --trees 48 --depth 4")
    for name, value, least in (("trees", trees, 1), ("depth", depth, 0), ("shared", shared, 0)):
        if value < least:
            raise ConfigError(f"--{name} must be at least {least}, not {value}")
    return FeedforwardShape.of_trees(trees, depth, shared)


def _spelled(shape: tuple[str, ...]) -> tuple[FeedforwardShape, ...]:
    try:
        return tuple(parse_shape(text) for text in shape)
    except ConfigError as error:
        raise ConfigError(f"--shape {','.join(shape)}: {error}") from error


def parse_layers(option: str, text: str) -> tuple[int, ...]:
    """The layers that "2-5" or "0,3" names, in order. Raises `ConfigError` in the name of `option`."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"{option} {text}: write layers from 0 on, such as 2-5 or 0,3")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))


def name_layers(layers: tuple[int, ...]) -> str:
    """The shortest text that `parse_layers` reads as these."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
