"""Convolutions with fewer multiplications: Winograd's minimal filtering, for float32.

A tile of 2x2 outputs takes 16 products a pair of channels where a 3x3 kernel takes 36, and 9 where a 2x2 one takes 16.
S. Winograd, Arithmetic Complexity of Computations (1980); for convolutions A. Lavin and S. Gray, "Fast Algorithms for
Convolutional Neural Networks" (CVPR 2016), whose matrices these are, up to signs.  With tiles this small the result
is as exact as the plain sum's, about 1e-6 of its largest value.

Along an axis, with d a tile's inputs, g the kernel and * elementwise, a tile's outputs are

    outputs @ ((kernel @ g) * (inputs @ d))

In two dimensions each matrix is applied along both axes, and every product is a matrix product over the channels.
A 4x4 kernel with stride 2 is four 2x2 kernels, one for each phase of the input's rows and columns, and their sum.
That is linear in d, and its transpose is the transposed convolution: from the outputs to overlapping inputs.
Images are NHWC and kernels HWIO; around an image are zeros, 1 pixel wide.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Matrix = tuple[tuple[float, ...], ...]
Grid = Sequence[Sequence[Any]]  # of arrays, one for each place along the rows and along the columns of a tile

_TILE = 2  # outputs along an axis


class _Filter(NamedTuple):
    inputs: Matrix
    kernel: Matrix
    outputs: Matrix


_TWO_TAPS = _Filter(
    inputs=((1, -1, 0), (0, 1, 0), (0, 1, -1)),
    kernel=((1, 0), (1, 1), (0, 1)),
    outputs=((1, 1, 0), (0, 1, -1)),
)
_THREE_TAPS = _Filter(
    inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    kernel=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
)


def conv(x: Float[Array, "b h w cin"], kernel: Float[Array, "3 3 cin cout"]) -> Float[Array, "b h w cout"]:
    """Convolves with stride 1; height and width must be even."""
    return _to_outputs(_multiply(_tiles(x), _transform_kernel(kernel, _THREE_TAPS)), _THREE_TAPS)


def downsample(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b h/2 w/2 cout"]:
    """Convolves with stride 2: halves height and width, which must divide by 4."""
    taps = kernel.reshape(4, 2, 2 * kernel.shape[2], kernel.shape[3])  # both phases of the columns are channels
    products = (
        _multiply(tiles, _transform_kernel(taps[phase::2], _TWO_TAPS))
        for phase, tiles in enumerate(_tiles_by_row_phase(x))
    )
    return _to_outputs(_map(jnp.add, *products), _TWO_TAPS)


def upsample(x: Float[Array, "b h w cin"], kernel: Float[Array, "4 4 cin cout"]) -> Float[Array, "b 2*h 2*w cout"]:
    """Doubles height and width, which must be even.

    This is the transpose of `downsample` with the kernel flipped and its channels swapped.
    """
    cin, cout = kernel.shape[2:]
    taps = kernel[::-1, ::-1].reshape(4, 2, 2, cin, cout).swapaxes(2, 3).reshape(4, 2, cin, 2 * cout)
    spread = _transform(_transpose(_TWO_TAPS.outputs), _windows(x, _TILE))
    windows: list[list[Any]] = [[None] * 6 for _ in range(6)]
    for phase in range(2):
        products = _multiply(spread, _transform_kernel(taps[phase::2], _TWO_TAPS))
        moved = _transform(_transpose(_TWO_TAPS.inputs), products)
        for row, column in itertools.product(range(3), repeat=2):
            both = moved[row][column]  # phases of the columns
            windows[2 * row + phase][2 * column] = both[..., :cout]
            windows[2 * row + phase][2 * column + 1] = both[..., cout:]
    return _interleave(_overlap(windows))


def _tiles(x: Array) -> Grid:
    """Returns what the products of a 3x3 kernel take: `inputs @ d` of every tile, 4x4 of [b, h/2, w/2, c]."""
    return _transform(_THREE_TAPS.inputs, _windows(_pad(x), 4))


def _tiles_by_row_phase(x: Array) -> list[Grid]:
    """Returns the same of even and of odd rows, 3x3 of [b, h/4, w/4, 2 c]: both phases of the columns are channels."""
    b, h, w, c = x.shape
    rows = _pad(x).reshape(b, h // 2 + 1, 2, w // 2 + 1, 2 * c)
    return [_transform(_TWO_TAPS.inputs, _windows(rows[:, :, phase], 3)) for phase in range(2)]


def _transform_kernel(kernel: Array, of: _Filter) -> Grid:
    """Returns `kernel @ g`, of [1, 1, cin, cout]."""
    taps = range(kernel.shape[0])
    return _transform(of.kernel, [[kernel[row : row + 1, column : column + 1] for column in taps] for row in taps])


def _to_outputs(products: Grid, of: _Filter) -> Array:
    return _interleave(_transform(of.outputs, products))


def _multiply(images: Grid, kernels: Grid) -> Grid:
    """Returns the matrix products over the channels; as convolutions, which XLA's CPU does faster."""

    def multiply(image: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return _map(multiply, images, kernels)


def _map(function: Any, *grids: Grid) -> Grid:
    return [list(map(function, *rows)) for rows in zip(*grids, strict=True)]


def _transform(matrix: Matrix, grid: Grid) -> Grid:
    """Applies the matrix along the rows and along the columns."""
    columns = [[_combine(row, column) for row in matrix] for column in zip(*grid, strict=True)]
    return [[_combine(row, parts) for row in matrix] for parts in zip(*columns, strict=True)]


def _combine(factors: Sequence[float], parts: Iterable[Any]) -> Any:
    """Returns the sum of factor times part, without a multiplication by 1."""
    terms = [(factor, part) for factor, part in zip(factors, parts, strict=True) if factor]
    (first, total), *others = sorted(terms, key=lambda term: term[0] < 0)
    total = total if first == 1 else first * total
    for factor, part in others:
        total = total - part if factor == -1 else total + (part if factor == 1 else factor * part)
    return total


def _transpose(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _pad(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _windows(x: Array, size: int) -> Grid:
    """Returns size x size of [b, tiles, tiles, c]: the pixel at that place of every window; they are 2 pixels apart."""
    rows, columns = ((length - size) // _TILE + 1 for length in x.shape[1:3])
    return [
        [
            x[:, row : row + _TILE * rows - 1 : _TILE, column : column + _TILE * columns - 1 : _TILE]
            for column in range(size)
        ]
        for row in range(size)
    ]


def _overlap(windows: Grid) -> Grid:
    """Does the transpose of taking windows from a padded image: the outermost places go to the neighbouring tiles."""

    def along(parts: Sequence[Array], axis: int) -> list[Array]:
        before, *own, after = parts
        own[0] = own[0] + _shift(after, axis, 1)
        own[-1] = own[-1] + _shift(before, axis, -1)
        return own

    columns = [along(column, 1) for column in zip(*windows, strict=True)]
    return [along(row, 2) for row in zip(*columns, strict=True)]


def _shift(x: Array, axis: int, tiles: int) -> Array:
    """Moves pixels to the next tile or the one before it; zeros move in."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(tiles, -tiles, 0) if each == axis else (0, 0, 0) for each in range(4)])


def _interleave(grid: Grid) -> Array:
    """Returns the image whose tiles have these pixels at each of their places."""
    image = jnp.stack([jnp.stack(row, 3) for row in grid], 2)
    b, rows, height, columns, width, c = image.shape
    return image.reshape(b, rows * height, columns * width, c)
