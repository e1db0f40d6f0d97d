"""Least squares with coefficients that cannot be negative, for a handful of unknowns, from the normal equations.

Pure. The active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23). Few enough unknowns
that plain Python beats the call into a library.
"""

from collections.abc import Sequence

TOLERANCE = 1e-10


def solve(normal: Sequence[Sequence[float]], target: Sequence[float]) -> list[float]:
    """The x >= 0 that minimises x'Hx/2 - g'x.

    Args:
        normal: H, symmetric and positive definite.
        target: g.
    """
    size = len(target)
    x = [0.0] * size
    free: list[int] = []
    for _ in range(3 * size):
        slope = [target[i] - sum(normal[i][j] * x[j] for j in free) for i in range(size)]
        rising = [i for i in range(size) if i not in free and slope[i] > TOLERANCE * (1 + abs(target[i]))]
        if not rising:
            break
        free.append(max(rising, key=slope.__getitem__))
        while free:
            solution = solve_linear([[normal[i][j] for j in free] for i in free], [target[i] for i in free])
            if min(solution) > 0:
                x = [0.0] * size
                for i, value in zip(free, solution, strict=True):
                    x[i] = value
                break
            share = min(x[i] / (x[i] - value) for i, value in zip(free, solution, strict=True) if value <= 0)
            for i, value in zip(free, solution, strict=True):
                x[i] += share * (value - x[i])
            free = [i for i, value in zip(free, solution, strict=True) if value > 0 or x[i] > TOLERANCE]
            x = [x[i] if i in free else 0.0 for i in range(size)]
    return x


def solve_linear(matrix: Sequence[Sequence[float]], target: Sequence[float]) -> list[float]:
    """The x with `matrix` x = `target`, by elimination with pivots; `matrix` must be regular."""
    size = len(target)
    rows = [[*matrix[i], target[i]] for i in range(size)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        top = rows[column]
        for row in rows[column + 1 :]:
            factor = row[column] / top[column]
            if factor:
                for j in range(column, size + 1):
                    row[j] -= factor * top[j]
    x = [0.0] * size
    for i in reversed(range(size)):
        x[i] = (rows[i][size] - sum(rows[i][j] * x[j] for j in range(i + 1, size))) / rows[i][i]
    return x
