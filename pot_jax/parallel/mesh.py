"""Devices by use: samples, the levels of a sample, and parameters that do not fit one device.

Along "samples" each device has samples of its own. Along "levels" and "params", devices share a
sample's batch rows: levels, and guidance's halves. Along "params" they also split large parameters,
which a network's layers gather where they use them. Most of the time goes into the networks; zoom
operators run alike on all devices of a sample (docs/clusters.md says up to how many that is cheap).
`on_devices` runs a function as each device's own program, so that the only collectives are those
written here. Nothing outside this module knows how many devices there are.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from pot_jax.checks import require
from pot_jax.config import MESH_AXES, mesh_axes
from pot_jax.parallel import memory

SAMPLES, AXIS, PARAMS = MESH_AXES
ROWS = (AXIS, PARAMS)  # the axes that share one sample's batch rows
_SPLIT = {"unet", "autoencoder", "tiny_vae"}  # networks whose parameters can be split
_SMALL = 4096  # numbers in a parameter that is not worth a collective
_WHOLE = PartitionSpec()
# False, which XLA does not know before it has x; of samples under vmap, one for all.
_never = jax.custom_batching.custom_vmap(lambda x: x.ravel()[0].astype("float32") > jnp.inf)
_never.def_vmap(lambda size, batched, x: (_never(x), False))


def device_mesh(
    devices: list[jax.Device] | None = None, axes: str = "", samples: int = 1, parameters: int = 0
) -> Mesh:
    """Returns the mesh of the setting `mesh`, `axes`, over `devices`, by default all.

    If that leaves the choice, `parameters`, in bytes, are split until they take half of a device's
    memory at most; of the other devices, `samples` take as many as divide them, and levels the
    rest. UserError if devices are not different ones, or the axes do not fit them or the samples.
    """
    devices = jax.devices() if devices is None else devices
    given = devices if isinstance(devices, Sequence | np.ndarray) else ()
    known = all(isinstance(device, jax.Device) for device in given)
    expected = "a list of different devices, such as jax.devices()[:1]"
    require(known and 0 < len(set(given)) == len(given), "devices", expected, devices)
    own = {*range(jax.process_count())} <= {device.process_index for device in given}
    require(own, "devices", "some of every process", devices)
    # JAX orders the devices of one axis by how they are connected.
    mesh = jax.make_mesh((len(given),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    if not (sizes := mesh_axes(axes)):
        room = memory.free_and_total(mesh.local_devices[0])[1] / 2 if parameters else 1
        divisors = [n for n in range(1, mesh.size + 1) if mesh.size % n == 0]
        count = next((n for n in divisors if parameters <= n * room), mesh.size)
        sizes = {SAMPLES: math.gcd(samples, mesh.size // count), AXIS: None, PARAMS: count}
    rest = max(1, mesh.size // math.prod(size or 1 for size in sizes.values()))
    shape = [sizes.get(name, 1) or rest for name in MESH_AXES]
    expected = f"a product of {mesh.size}, the number of devices"
    require(math.prod(shape) == mesh.size, "mesh", expected, f"{math.prod(shape)} in {axes}")
    expected = f"{SAMPLES} that divide the {samples} seeds"
    require(samples % shape[0] == 0, "mesh", expected, f"{shape[0]} in {axes}")
    return Mesh(mesh.devices.reshape(shape), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def described(mesh: Mesh) -> str:
    """Returns a mesh in words, such as "8 x cpu (samples:2,levels:4,params:1)"."""
    devices, axes = mesh.devices, ",".join(f"{name}:{size}" for name, size in mesh.shape.items())
    return f"{devices.size} x {devices.flat[0].device_kind}" + f" ({axes})" * (devices.size > 1)


def sharing(mesh: Mesh, axes: Sequence[str] = ROWS) -> int:
    """Returns how many devices share the batch rows of one sample: those along `axes`."""
    return math.prod(mesh.shape[axis] for axis in axes)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a complete copy on every device of `mesh`."""
    return NamedSharding(mesh, _WHOLE)


def split_over(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits arrays along their first axis over the axis of levels."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def place(tree, mesh: Mesh, specs: Any = _WHOLE):
    """Returns `tree` with every array, or shape, on the devices of `mesh`.

    `specs` say how arrays are split, one for each subtree; by default, all devices have copies. On
    several hosts, each gives its own devices what it has; that this is the same everywhere is for
    `hosts.require_same` to say.
    """

    def put(leaf, spec):
        there = NamedSharding(mesh, spec)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(sharding=there)
        if jax.process_count() == 1 or getattr(leaf, "sharding", None) == there:
            return jax.device_put(leaf, there)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=there)(leaf)
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            kind, words = jax.random.key_impl(leaf), jax.random.key_data(leaf)
            return jax.random.wrap_key_data(put(words, spec), impl=kind)
        here = np.asarray(leaf)
        return jax.make_array_from_callback(here.shape, there, lambda index: here[index])

    return jax.tree.map(put, tree, jax.tree.broadcast(specs, tree))


replicate = place  # by its usual name


def computed(function: Callable, *arguments):
    """Returns function(*arguments), or only its shape if an argument is a `ShapeDtypeStruct`.

    So everything about a run can be checked before its model's weights are read.
    """
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arguments)):
        return jax.eval_shape(function, *arguments)
    return function(*arguments)


def _spec(mesh: Mesh, shape: tuple[int, ...]) -> PartitionSpec:
    """How a parameter lies on a mesh: its largest axis is split that can be, if it is large."""
    fits = [axis for axis, size in enumerate(shape) if size % mesh.shape[PARAMS] == 0]
    if mesh.shape[PARAMS] == 1 or not fits or math.prod(shape) < _SMALL:
        return _WHOLE
    return PartitionSpec(*[None] * max(fits, key=shape.__getitem__), PARAMS)


def weight_specs(weights: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Returns how a program's `weights` lie on a mesh: the networks' split, all else whole."""
    split = {name: weights[name] for name in _SPLIT & {*weights}}
    split = jax.tree.map(lambda leaf: _spec(mesh, np.shape(leaf)), split)
    return dict.fromkeys(weights, _WHOLE) | split


def placement(mesh: Mesh) -> Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None:
    """Returns `load`'s `sharding` if a mesh splits parameters; other networks are on one device."""
    one = SingleDeviceSharding(mesh.local_devices[0])

    def sharding(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        return NamedSharding(mesh, _spec(mesh, shape)) if path.split("/")[0] in _SPLIT else one

    return None if mesh.shape[PARAMS] == 1 else sharding


def on_devices(mesh: Mesh, function: Callable, takes: tuple, gives: Any, **how: Any) -> Callable:
    """Returns `function`, jitted, as each device of `mesh` computes it on its parts of the arrays.

    `takes` has each argument's specs, as for `place`, or `weight_specs`; `gives` the result's; and
    `how` goes to `jax.jit`. Devices only meet in `split_rows` and `gathering`.
    """

    def everywhere(*arguments):
        pairs = zip(takes, arguments, strict=True)
        specs = tuple(spec(given, mesh) if callable(spec) else spec for spec, given in pairs)
        each = {"mesh": mesh, "in_specs": specs, "out_specs": gives, "check_vma": False}
        return jax.shard_map(function, **each)(*arguments)

    there = jax.tree.map(partial(NamedSharding, mesh), gives)
    return jax.jit(function if mesh.size == 1 else everywhere, out_shardings=there, **how)


def gathering(params: Any, shapes: Callable[[], Any], mesh: Mesh) -> AbstractContextManager:
    """In it, each layer of a flax network gathers its own parameters, once its input is known.

    `params` are the network's, as devices have them; `shapes` returns those of whole ones.
    """
    if mesh.shape[PARAMS] == 1:
        return nullcontext()
    layers = {"is_leaf": lambda _, tree: not any(isinstance(x, dict) for x in tree.values())}
    params, shapes = (flatten_dict(tree, **layers) for tree in (params, shapes()))

    def call(function, arguments, named, context):
        if (path := context.module.path) not in params:
            return function(*arguments, **named)
        # Else XLA would gather all at once, or keep them from step to step.
        never = _never(jax.lax.stop_gradient(arguments[0]))

        def whole(part, of):
            axes = [axis for axis, size in enumerate(of.shape) if size != part.shape[axis]]
            late = part + never.astype(part.dtype)
            return jax.lax.all_gather(late, PARAMS, axis=axes[0], tiled=True) if axes else part

        own = {"params": jax.tree.map(whole, params[path], shapes[path])}
        return context.module.clone(parent=None).apply(own, *arguments, **named)

    return nn.intercept_methods(call)


def split_rows(
    function: Callable, mesh: Mesh, rows_at_once: int | None = None, axes: Sequence[str] = ROWS
) -> Callable:
    """Returns `function(weights, *rows)`, whose batch rows the devices along `axes` share.

    `function` takes `weights`, any pytree, and arrays `[M, ...]`, or pytrees of them, whose batch
    rows are independent of each other; it returns one array `[M, ...]`. Called inside `on_devices`,
    each of these devices has all rows, and gets all outputs, gathered once. At most `rows_at_once`
    (None: all) are computed at a time on each device, which bounds memory: an autoencoder at 512
    pixels needs about a gigabyte per batch row. Copies of the last batch row are added if the
    devices, or `rows_at_once`, do not divide M; their results are dropped.
    """
    devices = sharing(mesh, axes)
    every = partial(jax.lax.all_gather, axis_name=tuple(axes), tiled=True)

    def wrapped(weights, *rows):
        count = jax.tree.leaves(rows)[0].shape[0]
        each = -(-count // devices)
        together = min(rows_at_once or each, each)
        each += -each % together
        padding = each * devices - count
        rows = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:].repeat(padding, 0)]), rows)

        def own(x):
            return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axes) * each, each)

        take = give = lambda x: x
        if devices > 1:
            # As all devices differentiate the same loss, each is the other's derivative. JAX's own
            # would add up what the devices have in common.
            take, give = jax.custom_vjp(own), jax.custom_vjp(every)
            take.defvjp(lambda x: (own(x), None), lambda _, change: (every(change),))
            give.defvjp(lambda x: (every(x), None), lambda _, change: (own(change),))
        rows = jax.tree.map(take, rows)
        if each == together:
            return give(function(weights, *rows))[:count]
        groups = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), rows)
        out = jax.lax.map(lambda group: function(weights, *group), groups)
        return give(out.reshape(-1, *out.shape[2:]))[:count]

    return wrapped
