"""Rounding schemes in Python.

A scheme decides how u = w/s becomes an integer, and what of that is learned: v, the rounding
variable of each weight. It is a class with functions of numpy arrays:

    class Linear:
        start = "fraction"
        v_min, v_max = 0.0, 1.0
        def initial(self, u, start): ...   # v0; left out: 0
        def soft(self, u, v): ...          # the relaxed r; left out: the scheme does not relax
        def hard(self, u, v): ...          # the integer r
        def d_dv(self, u, v): ...          # dr/dv of the backward pass; left out: 1
        def d_du(self, u, v): ...          # dr/du with v0 held fixed; left out: 1
        def relaxed(self, v): ...          # h of the regularizer, with `soft`
        def d_relaxed(self, v): ...        # dh/dv

u and v are read-only arrays [out, in], float32 (float64 for a float64 weight); results are arrays
like u, or numbers. Attributes `help`, `parameterization` ("dense", "low_rank"), `start`
("fraction", "nearest", "zero"), `v_min`, `v_max` and `rate` (the learning rate) are optional.
docs/add-a-rounding-scheme.md has the meaning of each.
"""
import numpy

from . import _core


def register_rounding(name, scheme):
    """Makes a scheme known: quantize(..., rounding=name). The CPU computes it.

    scheme  a class without arguments, or an object

    The same name may be registered again, which replaces the scheme. ValueError for a name of the
    program's own, and for a scheme that lacks a function. A run that is resumed cannot see whether
    the functions have changed meanwhile.
    """
    _core.register_rounding(name, scheme)


class _Case:
    """A small weight with scales and variables, for every start and both ends of the grid."""

    def __init__(self, name, dtype="float64", seed=1):
        random = numpy.random.default_rng(seed)
        self.name = name
        self.w = random.normal(0, 0.02, (7, 24)).astype(dtype)
        self.scale = (0.5 * numpy.abs(self.w).max(1, keepdims=True) / 4).astype(dtype)
        self.zero_point = numpy.full((7, 1), 3, dtype)
        self.p = random.normal(0, 0.1, self.w.shape).astype(dtype)
        self.dw = random.normal(0, 1, self.w.shape).astype(dtype)

    def run(self, **changes):
        given = dict(w=self.w, scale=self.scale, zero_point=self.zero_point, bits=3, group=24,
                     p=self.p, start=None, hard=False)
        given.update(changes)
        return _core.RoundingPass(self.name, given.pop("w"), given.pop("scale"),
                                  given.pop("zero_point"), given.pop("bits"), given.pop("group"),
                                  **given)


def _check(condition, name, what):
    if not condition:
        raise AssertionError(f"rounding scheme {name!r}: {what}")


def _check_hard(name):
    """Ties, both ends and zero: integers of the grid, and a neighbour of u."""
    w = numpy.array([[-9, -1.25, -0.75, -0.25, 0, 0.25, 0.5, 0.75, 1.25, 9]], "float32")
    scale, zero_point = numpy.full((1, 1), 0.5, "float32"), numpy.full((1, 1), 3, "float32")
    for start in ("fraction", "nearest", "zero"):
        made = _core.RoundingPass(name, w, scale, zero_point, 3, 10, hard=True)
        if not made.supports(start):
            continue
        made = _core.RoundingPass(name, w, scale, zero_point, 3, 10, hard=True, start=start)
        codes = made.codes().numpy().astype(int)
        _check(numpy.array_equal(made.forward().numpy(), 0.5 * (codes - 3)), name,
               "forward and codes differ")
        u = numpy.clip(w / 0.5, -3, 4)
        _check((numpy.abs(codes - 3 - u) <= 1).all(), name,
               f"hard leaves the neighbours of w/s (start {start})")
        _check(codes[0, 0] == 0 and codes[0, -1] == 7, name, "the ends of the grid do not clip")


def _check_start(name):
    case = _Case(name)
    relaxes = case.run().relaxes
    s, z = case.scale, case.zero_point
    nearest = s * (numpy.clip(numpy.rint(case.w / s) + z, 0, 7) - z)
    for hard in ([False, True] if relaxes else [True]):
        if case.run().supports("nearest"):
            y = case.run(p=None, start="nearest", hard=hard).forward().numpy()
            _check(numpy.allclose(y, nearest, rtol=0, atol=1e-12), name,
                   "start 'nearest' is not rounding to nearest")
    if relaxes and case.run().supports("fraction"):
        y = case.run(p=None, start="fraction").forward().numpy()
        _check((numpy.abs(y - numpy.clip(case.w, -z * s, (7 - z) * s)) <= 1e-5 * s).all(), name,
               "start 'fraction' does not give the weight itself")


def _check_gradient(name):
    """dL/dp of the relaxed weight against central differences, away from the kinks."""
    case = _Case(name)
    made = case.run()
    if not made.relaxes:
        return
    gradient = made.backward(case.dw)["p"].numpy()
    step = 1e-6
    up = case.run(p=case.p + step).forward().numpy()
    down = case.run(p=case.p - step).forward().numpy()
    half = case.run(p=case.p + step / 2).forward().numpy()
    here = made.forward().numpy()
    slope = (up - down) / (2 * step)
    smooth = numpy.abs((half - here) - (up - half)) <= 1e-9 * case.scale
    smooth &= numpy.abs((up - here) - (here - down)) <= 1e-9 * case.scale
    _check(smooth.mean() > 0.3, name, "soft has a kink at most weights")
    wrong = numpy.abs(gradient - case.dw * slope) > 1e-5 * (case.scale + numpy.abs(gradient))
    # At a bound of v the weight does not move, and a gradient that leads back is kept.
    wrong &= slope != 0
    _check(not (wrong & smooth).any(), name,
           "d_dv is not the derivative of soft (declare straight_through = True where it is not "
           "meant to be)")


def _check_precision(name):
    exact, single = _Case(name), _Case(name, "float32")
    widened = {key: getattr(single, key).astype("float64") for key in ("w", "scale", "zero_point", "p")}
    for hard in (False, True):
        low = single.run(hard=hard).forward().numpy()
        high = exact.run(hard=hard, **widened).forward().numpy()
        off = numpy.abs(low - high) > 1e-6 * (numpy.abs(high) + 0.01)
        _check(not off.any(), name, "float32 and float64 give different weights")


def _check_learning(name):
    """300 steps of signed descent on ||X (W^ - W)||^2 must beat rounding to nearest."""
    random = numpy.random.default_rng(5)
    w = random.normal(0, 0.02, (16, 32))
    x = random.normal(0, 1, (64, 8)) @ random.normal(0, 0.5, (8, 32))
    x += random.normal(0, 0.1, x.shape)
    scale = (w.max(1, keepdims=True) - w.min(1, keepdims=True)) / 3
    zero_point = numpy.clip(numpy.rint(-w.min(1, keepdims=True) / scale), 0, 3)

    def run(p):
        return _core.RoundingPass(name, w, scale, zero_point, 2, 32, p=p, hard=True)

    def error(y):
        return float((((y - w) @ x.T) ** 2).sum())

    plain = error(scale * (numpy.clip(numpy.rint(w / scale) + zero_point, 0, 3) - zero_point))
    p, best = numpy.zeros_like(w), numpy.inf
    for step in range(300):
        made = run(p)
        y = made.forward().numpy()
        best = min(best, error(y))
        gradient = made.backward(numpy.ascontiguousarray(2 * (y - w) @ x.T @ x))["p"].numpy()
        p = p - 0.02 * (1 - step / 300) * numpy.sign(gradient)
    _check(best < 0.8 * plain, name, f"it learns nothing: output error {best:.3g}, {plain:.3g} of "
                                     "rounding to nearest")


def check_rounding(name):
    """Holds a registered scheme to what the program promises of every scheme.

    Hard rounding gives integers, neighbours of w/s inside the grid; starts keep their word; d_dv is
    the derivative of soft (unless the scheme says straight_through = True); float32 follows
    float64; learning on a toy layer beats rounding to nearest. AssertionError says what does not
    hold.
    """
    scheme = _core.python_scheme(name)
    _check_hard(name)
    _check_start(name)
    if not getattr(scheme, "straight_through", False):
        _check_gradient(name)
    _check_precision(name)
    _check_learning(name)
