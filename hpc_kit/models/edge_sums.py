"""Sums over edges of products of atoms' and distances' features, with first and second derivatives by hand.

An edge and its reverse have one distance: what depends on it alone stands once a pair, [P, F], and serves both
directions. Each sum is linear in each of its factors, so that a derivative is a product of the other factors. Where
autograd would keep and copy [E, F] at each step, these gather anew into a few tensors that stay in the cache. A third
derivative is refused.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hpc_kit.data.batches import GraphBatch
from hpc_kit.models.pairs import pairs_of


class PairedEdges:
    """The edges of a batch in an order of their own: the pairs one way, then the other way, E = 2P; or, without
    `reverses`, as they are, E = P.

    src, dst [E]; vectors [P, 3] Angstrom, from dst to src, of the first P. Raises RuntimeError where an edge
    lacks its reverse.
    """

    def __init__(self, batch: GraphBatch, reverses: bool):
        vectors = batch.edge_vectors()
        if reverses:
            first = pairs_of(batch, reverses).edge
            src, dst, vectors = (x.index_select(0, first) for x in (batch.src, batch.dst, vectors))
            self.src, self.dst = torch.cat([src, dst]), torch.cat([dst, src])
        else:
            self.src, self.dst = batch.src, batch.dst
        self.ways, self.vectors = 1 + reverses, vectors
        self._scratch: dict[tuple, list[Tensor]] = {}

    def turned(self, x: Tensor, sign: float = 1.0) -> Tensor:
        """x [P, ...] -> [E, ...]: the same both ways, times `sign` on the way back."""
        return x if self.ways == 1 else torch.cat([x, x * sign])

    def scratch(self, count: int, like: Tensor) -> list[Tensor]:
        """Return `count` tensors [E, F], `like` being [.., F], whose content holds until the next call."""
        kept = self._scratch.setdefault((like.dtype, like.shape[-1]), [])
        kept += [like.new_empty(len(self.src), like.shape[-1]) for _ in range(count - len(kept))]
        return kept[:count]


def head_products(q: Tensor, k: Tensor, d: Tensor, edges: PairedEdges, heads: int) -> Tensor:
    """Return [E, heads]: sum over a head's features of q[dst] k[src] d; q, k [N, F], d [P, F]."""
    return _HeadProducts.apply(q, k, d, edges, heads)


def head_sums(a: Tensor, v: Tensor, d: Tensor, edges: PairedEdges) -> Tensor:
    """Return [N, F]: sum over the edges that end in an atom of a v[src] d; a [E, heads], v [N, F], d [P, F]."""
    return _HeadSums.apply(a, v, d, edges)


def vector_sums(w: Tensor | None, dw: Tensor | None, y: Tensor, dy: Tensor, u: Tensor, edges: PairedEdges) -> Tensor:
    """Return [3, N, F]: sum over the edges that end in an atom of w[src] dw + y[src] dy u.

    w [3, N, F] or None for zero, y [N, F], dw, dy [P, F], u [E, 3].
    """
    return _VectorSums.apply(w, dw, y, dy, u, edges)


def silu_parts(z: Tensor, width: int) -> tuple[Tensor, ...]:
    """z sigmoid(z) [N, F], in parts of `width` features."""
    return _Silu.apply(z, width)


def _gather(x: Tensor, index: Tensor, out: Tensor) -> Tensor:
    return torch.index_select(x, 0, index, out=out)


def _scatter(x: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """x [E, F] -> [N, F]."""
    return x.new_zeros(like.shape).index_add_(0, index, x)


def _ways(x: Tensor, d: Tensor) -> Tensor:
    """x [E, F] -> [1 or 2, P, F] for d [P, F]."""
    return x.view(len(x) // max(len(d), 1), *d.shape)


def _times(x: Tensor, d: Tensor, out: Tensor) -> Tensor:
    torch.mul(_ways(x, d), d, out=_ways(out, d))
    return out


def _add_product(x: Tensor, y: Tensor, d: Tensor) -> None:
    """x, y [E, F], d [P, F]: x += y d."""
    _ways(x, d).addcmul_(_ways(y, d), d)


def _add(x: Tensor, y: Tensor, z: Tensor, turn: int) -> None:
    """x += y z, or x = y z at the first turn."""
    if turn:
        x.addcmul_(y, z)
    else:
        torch.mul(y, z, out=x)


def _both_ways(x: Tensor, d: Tensor) -> Tensor:
    """x [E, F] -> [P, F] as d is: an edge and its reverse added."""
    return x.clone() if len(x) == len(d) else x[: len(d)] + x[len(d) :]


def _heads(x: Tensor, heads: int) -> Tensor:
    """x [E, F] -> [E, heads, F / heads]."""
    return x.view(len(x), heads, x.shape[1] // heads)


def _times_heads(a: Tensor, d: Tensor, out: Tensor) -> Tensor:
    """a [E, heads], d [P, F] -> a d [E, F]."""
    pairs, heads = len(d), a.shape[1]
    shape, size = (len(a) // max(pairs, 1), pairs, heads), d.shape[1] // heads
    torch.mul(a.reshape(*shape, 1), d.reshape(pairs, heads, size), out=out.view(*shape, size))
    return out


class _HeadProducts(Function):
    @staticmethod
    def forward(ctx, q, k, d, edges, heads):
        ctx.save_for_backward(q, k, d)
        ctx.edges = edges
        at_dst, at_src = edges.scratch(2, q)
        product = _gather(q, edges.dst, at_dst).mul_(_gather(k, edges.src, at_src))
        return _heads(_times(product, d, product), heads).sum(2)

    @staticmethod
    def backward(ctx, g):
        return *_HeadForm.apply(g, *ctx.saved_tensors, ctx.edges, False)[1:], None, None


class _HeadSums(Function):
    @staticmethod
    def forward(ctx, a, v, d, edges):
        ctx.save_for_backward(a, v, d)
        ctx.edges = edges
        weight, at_src = edges.scratch(2, v)
        return _scatter(_times_heads(a, d, weight).mul_(_gather(v, edges.src, at_src)), edges.dst, v)

    @staticmethod
    def backward(ctx, g):
        a, *rest = ctx.saved_tensors
        ga, _, gv, gd = _HeadForm.apply(a, g, *rest, ctx.edges, True)
        return ga, gv, gd, None


class _HeadForm(Function):
    """The derivatives of sum_e a q[dst] k[src] d by a (if `by_a`, else by q), k and d."""

    @staticmethod
    def forward(ctx, a, q, k, d, edges, by_a):
        ctx.save_for_backward(a, q, k, d)
        ctx.set_materialize_grads(False)
        ctx.edges, heads = edges, a.shape[1]
        at_dst, at_src, weight, product = edges.scratch(4, q)
        _gather(q, edges.dst, at_dst)
        _gather(k, edges.src, at_src)
        _times_heads(a, d, weight)
        torch.mul(at_dst, at_src, out=product)
        gk = _scatter(at_dst.mul_(weight), edges.src, k)
        ga = gq = None
        if by_a:
            ga = _heads(_times(product, d, at_src), heads).sum(2)
        else:
            gq = _scatter(at_src.mul_(weight), edges.dst, q)
        _heads(product, heads).mul_(a.unsqueeze(2))
        return ga, gq, gk, _both_ways(product, d)

    @staticmethod
    @once_differentiable
    def backward(ctx, ta, tq, tk, td):
        (a, q, k, d), edges, heads = ctx.saved_tensors, ctx.edges, ctx.saved_tensors[0].shape[1]
        at_dst, at_src, weight, turned, moved, step, out = edges.scratch(7, q)
        _gather(q, edges.dst, at_dst)
        _gather(k, edges.src, at_src)
        # The cotangents are steps of the factors: `turned` is what they make of a d, `moved` of q[dst] k[src].
        _times_heads(a, d, weight)
        _times_heads(a, d.new_zeros(1, 1).expand_as(d) if td is None else td, turned)
        if ta is not None:
            turned.add_(_times_heads(ta, d, step))
        moved.zero_()
        torch.mul(at_src, turned, out=out)
        if tk is not None:
            torch.mul(_gather(tk, edges.src, step), at_dst, out=moved)
            out.addcmul_(step, weight)
        gq = _scatter(out, edges.dst, q)
        torch.mul(at_dst, turned, out=out)
        if tq is not None:
            moved.addcmul_(_gather(tq, edges.dst, step), at_src)
            out.addcmul_(step, weight)
        gk = _scatter(out, edges.src, k)
        product = at_dst.mul_(at_src)
        _times(moved, d, out)
        if td is not None:
            _add_product(out, product, td)
        _heads(moved, heads).mul_(a.unsqueeze(2))
        if ta is not None:
            _heads(moved, heads).addcmul_(_heads(product, heads), ta.unsqueeze(2))
        return _heads(out, heads).sum(2), gq, gk, _both_ways(moved, d), None, None


class _VectorSums(Function):
    @staticmethod
    def forward(ctx, w, dw, y, dy, u, edges):
        ctx.save_for_backward(w, dw, y, dy, u)
        ctx.edges = edges
        along, message, at_src = edges.scratch(3, y)
        _times(_gather(y, edges.src, along), dy, along)
        out = y.new_zeros(3, *y.shape)
        for x in range(3):
            torch.mul(along, u[:, x : x + 1], out=message)
            if w is not None:
                _add_product(message, _gather(w[x], edges.src, at_src), dw)
            out[x].index_add_(0, edges.dst, message)
        return out

    @staticmethod
    def backward(ctx, g):
        return *_VectorForm.apply(g, *ctx.saved_tensors, ctx.edges), None


class _VectorForm(Function):
    """The derivatives of sum_e g[dst] . (w[src] dw + y[src] dy u) by w, dw, y, dy, u."""

    @staticmethod
    def forward(ctx, g, w, dw, y, dy, u, edges):
        ctx.save_for_backward(g, w, dw, y, dy, u)
        ctx.set_materialize_grads(False)
        ctx.edges, src, dst = edges, edges.src, edges.dst
        at_src, along, projected, overlap, at_dst, other = edges.scratch(6, y)
        _times(_gather(y, src, at_src), dy, along)
        gw, gu = None if w is None else torch.zeros_like(w), torch.empty_like(u)
        for x in range(3):
            _gather(g[x], dst, at_dst)
            _add(projected, at_dst, u[:, x : x + 1], x)
            gu[:, x] = torch.mul(at_dst, along, out=other).sum(1)
            if w is not None:
                _add(overlap, at_dst, _gather(w[x], src, other), x)
                gw[x].index_add_(0, src, _times(at_dst, dw, at_dst))
        gy = _scatter(_times(projected, dy, other), src, y)
        gdw = None if w is None else _both_ways(overlap, dw)
        return gw, gdw, gy, _both_ways(projected.mul_(at_src), dy), gu

    @staticmethod
    @once_differentiable
    def backward(ctx, tw, tdw, ty, tdy, tu):
        (g, w, dw, y, dy, u), edges = ctx.saved_tensors, ctx.edges
        src, dst = edges.src, edges.dst
        at_src, along, moved, projected, turned, overlap, at_dst, other, message = edges.scratch(9, y)
        _times(_gather(y, src, at_src), dy, along)
        # What the cotangents, as steps of the factors, make of y[src] dy.
        moved.zero_()
        if ty is not None:
            _times(_gather(ty, src, other), dy, moved)
        if tdy is not None:
            _add_product(moved, at_src, tdy)
        if tw is None:
            overlap.zero_()
        if tu is None:
            turned.zero_()
        gg, gw = (
            torch.zeros_like(g, memory_format=torch.contiguous_format),
            None if w is None else torch.zeros_like(w),
        )
        gu = torch.empty_like(u) if ctx.needs_input_grad[5] else None
        for x in range(3):
            _gather(g[x], dst, at_dst)
            _add(projected, at_dst, u[:, x : x + 1], x)
            torch.mul(moved, u[:, x : x + 1], out=message)
            if tu is not None:
                _add(turned, at_dst, tu[:, x : x + 1], x)
                message.addcmul_(along, tu[:, x : x + 1])
            if gu is not None:
                gu[:, x] = torch.mul(at_dst, moved, out=other).sum(1)
            if tw is not None:
                _add(overlap, at_dst, _gather(tw[x], src, other), x)
                _add_product(message, other, dw)
            if tdw is not None:
                _add_product(message, _gather(w[x], src, other), tdw)
                gw[x].index_add_(0, src, _times(at_dst, tdw, at_dst))
            gg[x].index_add_(0, dst, message)
        _times(turned, dy, other)
        turned.mul_(at_src)
        if tdy is not None:
            _add_product(other, projected, tdy)
        if ty is not None:
            turned.addcmul_(projected, _gather(ty, src, message))
        gdw = None if w is None else _both_ways(overlap, dw)
        return gg, gw, gdw, _scatter(other, src, y), _both_ways(turned, dy), gu, None


class _Silu(Function):
    @staticmethod
    def forward(ctx, z, width):
        sigmoid = torch.sigmoid(z)
        out = [part * s for part, s in zip(z.split(width, 1), sigmoid.split(width, 1), strict=True)]
        if ctx.needs_input_grad[0]:
            slope = torch.empty_like(sigmoid)
            for y, s, part in zip(out, sigmoid.split(width, 1), slope.split(width, 1), strict=True):
                torch.addcmul(y, y, s, value=-1.0, out=part).add_(s)
            ctx.save_for_backward(z, sigmoid, slope, *out)
        return tuple(out)

    @staticmethod
    def backward(ctx, *g):
        return _SiluForm.apply(len(g), *g, *ctx.saved_tensors), None


class _SiluForm(Function):
    """g times the slope s + y - s y of y = z s, s = sigmoid(z), whose own slope is (1 - s)(2 slope - y)."""

    @staticmethod
    def forward(ctx, count, *given):
        ctx.save_for_backward(*given)
        ctx.count = count
        g, slope = given[:count], given[count + 2]
        out = torch.empty_like(slope)
        for part, x, y in zip(out.chunk(count, 1), g, slope.chunk(count, 1), strict=True):
            torch.mul(x, y, out=part)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, t):
        count, saved = ctx.count, ctx.saved_tensors
        g, (_, sigmoid, slope), y = saved[:count], saved[count:-count], saved[-count:]
        bend, to_g = torch.empty_like(slope), []
        for part, *each in zip(*(x.chunk(count, 1) for x in (bend, t, sigmoid, slope)), g, y, strict=True):
            t_, s, slope_, g_, y_ = each
            torch.sub(slope_, y_, alpha=0.5, out=part)
            part.addcmul_(part, s, value=-1.0).mul_(g_).mul_(t_).mul_(2.0)
            to_g.append(t_ * slope_)
        return None, *to_g, bend, None, None, *[None] * count
