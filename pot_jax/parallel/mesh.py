"""Zoom levels over devices: batch rows split along one mesh axis, parameters replicated.

Most of the time goes into the networks, so only they are split; the zoom operators cost under 3% of
a step and run replicated. Nothing outside this module knows how many devices there are.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pot_jax.checks import require

AXIS = "levels"


def device_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis over different `devices`, by default all; UserError for others."""
    devices = jax.devices() if devices is None else devices
    given = devices if isinstance(devices, Sequence | np.ndarray) else ()
    known = all(isinstance(device, jax.Device) for device in given)
    expected = "a list of different devices, such as jax.devices()[:1]"
    require(known and 0 < len(set(given)) == len(given), "devices", expected, devices)
    own = {*range(jax.process_count())} <= {device.process_index for device in given}
    require(own, "devices", "some of every process", devices)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a complete copy on every device of `mesh`."""
    return NamedSharding(mesh, PartitionSpec())


def split_over(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits arrays along their first axis over the devices of `mesh`."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree, mesh: Mesh):
    """Returns `tree` with a copy of every array, or shape, on every device of `mesh`.

    On several hosts, each gives its own devices what it has; that this is the same everywhere is
    for `hosts.require_same` to say.
    """
    whole = replicated(mesh)

    def place(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf.update(sharding=whole)
        if jax.process_count() == 1 or getattr(leaf, "sharding", None) == whole:
            return jax.device_put(leaf, whole)
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            kind, words = jax.random.key_impl(leaf), jax.random.key_data(leaf)
            return jax.random.wrap_key_data(place(words), impl=kind)
        here = np.asarray(leaf)
        return jax.make_array_from_callback(here.shape, whole, lambda _: here)

    return jax.tree.map(place, tree)


def computed(function: Callable, *arguments):
    """Returns function(*arguments), or only its shape if an argument is a `ShapeDtypeStruct`.

    So everything about a run can be checked before its model's weights are read.
    """
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arguments)):
        return jax.eval_shape(function, *arguments)
    return function(*arguments)


def split_rows(function: Callable, mesh: Mesh, rows_at_once: int | None = None) -> Callable:
    """Returns `function(weights, *rows)`, computing its batch rows on all devices of `mesh`.

    `function` takes `weights`, any pytree, replicated, and arrays `[M, ...]`, or pytrees of them,
    whose batch rows are independent of each other; it returns one array `[M, ...]`. At most
    `rows_at_once` (None: all) are computed at a time on each device, which bounds memory: an
    autoencoder at 512 pixels needs about a gigabyte per batch row. Copies of the last batch row are
    added if the number of devices, or `rows_at_once`, does not divide M; their results are dropped.
    """
    split, whole = split_over(mesh), replicated(mesh)

    def on_all_devices(weights, *rows):
        rows = jax.lax.with_sharding_constraint(rows, split)
        return jax.lax.with_sharding_constraint(function(weights, *rows), whole)

    def wrapped(weights, *rows):
        count = jax.tree.leaves(rows)[0].shape[0]
        together = min(rows_at_once * mesh.size if rows_at_once else count, count)
        together += -together % mesh.size
        padding = -count % together
        rows = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:].repeat(padding, 0)]), rows)
        if count + padding == together:
            return on_all_devices(weights, *rows)[:count]
        groups = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), rows)
        out = jax.lax.map(lambda group: on_all_devices(weights, *group), groups)
        return out.reshape(-1, *out.shape[2:])[:count]

    return wrapped
