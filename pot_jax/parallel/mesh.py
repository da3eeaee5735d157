"""Devices by use: samples, the levels of a sample, and parameters that do not fit one device.

A mesh has three axes. Each index of "samples" has samples of its own. The devices along "levels"
and "params" share the batch rows of a sample: its levels, and guidance's halves. Those along
"params" also split large parameters, which a network gathers where it uses them. Most of the time
goes into the networks, so only they are split: the zoom operators run alike on all devices of a
sample (docs/clusters.md says up to how many that is cheap). `on_devices` makes a function the
program of one device, so that no collective is there but the ones written here. Nothing outside
this module knows how many devices there are.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pot_jax.checks import require
from pot_jax.config import MESH_AXES, mesh_axes
from pot_jax.errors import UserError
from pot_jax.parallel import memory

SAMPLES, AXIS, PARAMS = MESH_AXES
ROWS = (AXIS, PARAMS)  # the axes that split one sample's batch rows
NETWORKS = ("unet", "autoencoder", "tiny_vae")  # entries of `weights` whose parameters are split
_WHOLE = PartitionSpec()
_SMALL = 4096  # numbers of a parameter that is not worth a collective


def device_mesh(
    devices: list[jax.Device] | None = None,
    axes: str = "",
    *,
    samples: int = 1,
    parameters: int = 0,
) -> Mesh:
    """Returns the mesh that the setting `mesh`, `axes`, says, over `devices`, by default all.

    If it leaves the choice: parameters, given in bytes, are split until they take at most half of a
    device's memory; of the other devices, samples take as many as divide them, and levels the rest.
    Raises UserError if the devices are not different ones, or the axes do not fit them, or samples.
    """
    devices = jax.devices() if devices is None else devices
    given = devices if isinstance(devices, Sequence | np.ndarray) else ()
    known = all(isinstance(device, jax.Device) for device in given)
    expected = "a list of different devices, such as jax.devices()[:1]"
    require(known and 0 < len(set(given)) == len(given), "devices", expected, devices)
    own = {*range(jax.process_count())} <= {device.process_index for device in given}
    require(own, "devices", "some of every process", devices)
    count, sizes = len(devices), mesh_axes(axes)
    if not sizes:
        here = next(one for one in given if one.process_index == jax.process_index())
        room = memory.free_and_total(here)[1] / 2 if parameters else 1
        split = (n for n in range(1, count + 1) if count % n == 0 and parameters <= n * room)
        sizes = {PARAMS: next(split, count), AXIS: None}
        sizes[SAMPLES] = math.gcd(samples, count // sizes[PARAMS])
    stated = math.prod(n for n in sizes.values() if n)
    open_ = None in sizes.values()
    if count % stated if open_ else count != stated:
        product = f"{'a multiple of ' * open_}{stated}"
        raise UserError(
            f"mesh: {axes} is for {product} devices, and there are {count}; choose axes whose "
            "product is that, or auto"
        )
    shape = [count // stated if (n := sizes.get(name, 1)) is None else n for name in MESH_AXES]
    if samples % shape[0]:
        raise UserError(
            f"mesh: {SAMPLES}:{shape[0]} does not divide {samples} seeds; change one of them, or "
            "leave the choice: auto"
        )
    # JAX orders the devices of one axis by how they are connected.
    kinds = {"axis_types": (AxisType.Auto,), "devices": devices}
    return _shaped(jax.make_mesh((count,), (AXIS,), **kinds), *shape)


def _shaped(mesh: Mesh, *shape: int) -> Mesh:
    return Mesh(mesh.devices.reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def of_one_sample(mesh: Mesh) -> Mesh:
    """Returns the mesh of the same devices for one sample at a time."""
    return _shaped(mesh, 1, -1, mesh.shape[PARAMS])


def described(mesh: Mesh) -> str:
    """Returns the axes as the setting `mesh` says them."""
    return ",".join(f"{name}:{size}" for name, size in mesh.shape.items())


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a complete copy on every device of `mesh`."""
    return NamedSharding(mesh, _WHOLE)


def split_over(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits arrays along their first axis over the axis of levels."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def place(tree, mesh: Mesh, specs: Any = _WHOLE):
    """Returns `tree` with every array, or shape, on the devices of `mesh`, split as `specs` say.

    `specs` are one `PartitionSpec`, by default complete copies, or a tree whose leaves are those of
    subtrees. On several hosts, each gives its own devices what it has; that this is the same
    everywhere is for `hosts.require_same` to say.
    """

    def put(leaf, spec):
        there = NamedSharding(mesh, spec)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(sharding=there)
        if jax.process_count() == 1 or getattr(leaf, "sharding", None) == there:
            return jax.device_put(leaf, there)
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            kind, words = jax.random.key_impl(leaf), jax.random.key_data(leaf)
            return jax.random.wrap_key_data(put(words, spec), impl=kind)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:  # they exchange it
            return jax.jit(lambda x: x, out_shardings=there)(leaf)
        here = np.asarray(leaf)
        return jax.make_array_from_callback(here.shape, there, lambda index: here[index])

    return jax.tree.map(put, tree, jax.tree.broadcast(specs, tree))


replicate = place  # complete copies


def computed(function: Callable, *arguments):
    """Returns function(*arguments), or only its shape if an argument is a `ShapeDtypeStruct`.

    So everything about a run can be checked before its model's weights are read.
    """
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arguments)):
        return jax.eval_shape(function, *arguments)
    return function(*arguments)


def weight_specs(weights: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Returns how `weights` lie on a mesh: large parameters of the networks split, all else whole.

    A parameter's largest axis is split of those that the axis "params" divides.
    """
    count = mesh.shape[PARAMS]

    def spec(leaf) -> PartitionSpec:
        shape = np.shape(leaf)
        fits = [axis for axis, size in enumerate(shape) if size % count == 0]
        if count == 1 or not fits or math.prod(shape) < _SMALL:
            return _WHOLE
        return PartitionSpec(*[None] * max(fits, key=shape.__getitem__), PARAMS)

    return {n: jax.tree.map(spec, x) if n in NETWORKS else _WHOLE for n, x in weights.items()}


def placement(mesh: Mesh) -> Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None:
    """Returns `weights.load.load`'s `sharding` for parameters that a mesh splits; None for others.

    What the mesh does not split is on one device first, where the text encoder runs.
    """
    if mesh.shape[PARAMS] == 1:
        return None
    first = jax.sharding.SingleDeviceSharding(mesh.local_devices[0])

    def sharding(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        name, leaf = path.partition("/")[0], jax.ShapeDtypeStruct(shape, np.float32)
        spec = weight_specs({name: leaf}, mesh)[name]
        return NamedSharding(mesh, spec) if name in NETWORKS else first

    return sharding


def on_devices(function: Callable, mesh: Mesh, takes: Sequence[Any], gives: Any) -> Callable:
    """Returns a function of whole arrays that each device of `mesh` computes on its own parts.

    `takes` has for each argument its specs, as for `place`, or `weight_specs`; `gives` those of the
    result. Within, devices differ where the arrays do, and meet in `split_rows` and `gathering`.
    """
    if mesh.size == 1:
        return function

    def everywhere(*arguments):
        pairs = zip(takes, arguments, strict=True)
        specs = tuple(spec(given, mesh) if callable(spec) else spec for spec, given in pairs)
        how = {"mesh": mesh, "in_specs": specs, "out_specs": gives, "check_vma": False}
        return jax.shard_map(function, **how)(*arguments)

    return everywhere


@contextlib.contextmanager
def gathering(params: Any, shapes: Callable[[], Any], mesh: Mesh) -> Iterator[None]:
    """In it, each layer of a flax network gathers its own parameters when its input is known.

    `params` are the network's, as its devices have them; `shapes` returns those of whole ones.
    """
    if mesh.shape[PARAMS] == 1:
        yield
        return
    params, shapes = (flatten_dict(tree, is_leaf=_is_layer) for tree in (params, shapes()))

    def whole(part, of):
        axes = [axis for axis, size in enumerate(of.shape) if size != part.shape[axis]]
        return jax.lax.all_gather(part, PARAMS, axis=axes[0], tiled=True) if axes else part

    def call(function, arguments, named, context):
        own = params.get(path := context.module.path)
        if own is None:
            return function(*arguments, **named)
        # Without it, all would be gathered at once, and kept while steps are taken.
        own, _ = jax.lax.optimization_barrier((own, arguments))
        own = {"params": jax.tree.map(whole, own, shapes[path])}
        return context.module.clone(parent=None).apply(own, *arguments, **named)

    with nn.intercept_methods(call):
        yield


def _is_layer(path: tuple[str, ...], tree: dict[str, Any]) -> bool:
    return not any(isinstance(part, dict) for part in tree.values())


def split_rows(
    function: Callable,
    mesh: Mesh,
    rows_at_once: int | None = None,
    axes: tuple[str, ...] = ROWS,
) -> Callable:
    """Returns `function(weights, *rows)`, whose batch rows the devices along `axes` share.

    It is called in what `on_devices` runs, with the same rows on each of these devices, and returns
    the same on each: the outputs are gathered once. `function` takes `weights`, any pytree, and
    arrays `[M, ...]`, or pytrees of them, whose batch rows are independent of each other; it
    returns one array `[M, ...]`. At most `rows_at_once` (None: all) are computed at a time on each
    device, which bounds memory: an autoencoder at 512 pixels needs about a gigabyte per batch row.
    Copies of the last batch row are added if the devices, or `rows_at_once`, do not divide M; their
    results are dropped.
    """
    devices = math.prod(mesh.shape[axis] for axis in axes)

    def wrapped(weights, *rows):
        count = jax.tree.leaves(rows)[0].shape[0]
        each = -(-count // devices)
        together = min(rows_at_once or each, each)
        each += -each % together
        padding = each * devices - count
        rows = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:].repeat(padding, 0)]), rows)
        take, give = _exchange(axes, each) if devices > 1 else (lambda x: x,) * 2
        rows = jax.tree.map(take, rows)
        if each == together:
            return give(function(weights, *rows))[:count]
        groups = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), rows)
        out = jax.lax.map(lambda group: function(weights, *group), groups)
        return give(out.reshape(-1, *out.shape[2:]))[:count]

    return wrapped


def _exchange(axes: tuple[str, ...], each: int) -> tuple[Callable, Callable]:
    """Returns what takes a device's own rows, `each` of them, of all; and what gathers all again.

    As all devices differentiate the same loss, each is the other's derivative. JAX's own would add
    up what they have in common.
    """

    def own(x):
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axes) * each, each)

    together = partial(jax.lax.all_gather, axis_name=axes, tiled=True)
    take, give = jax.custom_vjp(own), jax.custom_vjp(together)
    take.defvjp(lambda x: (own(x), None), lambda _, change: (together(change),))
    give.defvjp(lambda x: (together(x), None), lambda _, change: (own(change),))
    return take, give
