"""Model folders as they break, or are broken on purpose: a table of kinds of damage.

A row is a kind: what is done to a copy of a whole model, and words that the one line has to say.
"""

import json
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
from safetensors.numpy import load_file, save_file

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
SHARD = "diffusion_pytorch_model-0000{}-of-00002.safetensors"
CONV = "conv_in.weight"

# How a folder is damaged: functions of the folder -------------------------------------------------


def holds(path, content):
    """The file's whole content is this."""

    def damage(folder):
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def settings(path, **changes):
    """The JSON file's settings are changed; `...` removes one."""

    def damage(folder):
        content = {**json.loads((folder / path).read_text()), **changes}
        content = {name: value for name, value in content.items() if value is not ...}
        (folder / path).write_text(json.dumps(content))

    return damage


def tensors(path, change):
    """The dict of the file's tensors is changed by `change`."""

    def damage(folder):
        held = load_file(folder / path)
        change(held)
        save_file(held, folder / path, {"format": "pt"})

    return damage


def header(path, change):
    """The header is changed by `change`, the data is not."""

    def damage(folder):
        whole = (folder / path).read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        head = json.loads(whole[8:end])
        change(head)
        text = json.dumps(head).encode()
        (folder / path).write_bytes(struct.pack("<Q", len(text)) + text + whole[end:])

    return damage


def cut(path, size):
    """Only the first `size` bytes are there; negative: the last ones are not."""

    def damage(folder):
        (folder / path).write_bytes((folder / path).read_bytes()[:size])

    return damage


def flipped(path, position, bit=1):
    def damage(folder):
        whole = bytearray((folder / path).read_bytes())
        whole[position] ^= bit
        (folder / path).write_bytes(whole)

    return damage


def gone(path):
    def damage(folder):
        (folder / path).rename(folder.parent / "elsewhere")

    return damage


def replaced(path, make):
    """Something else is at the path: `make(path, elsewhere)`, the original lies `elsewhere`."""

    def damage(folder):
        elsewhere = folder.parent / "elsewhere"
        (folder / path).rename(elsewhere)
        make(folder / path, elsewhere)

    return damage


def sharded(change):
    """The UNet lies in two shards, and `change(weight_map, folder)` was at the index."""

    def damage(folder):
        held = load_file(folder / UNET)
        (folder / UNET).unlink()
        places = {name: SHARD.format(1 + i % 2) for i, name in enumerate(held)}
        for place in (SHARD.format(1), SHARD.format(2)):
            part = {name: value for name, value in held.items() if places[name] == place}
            save_file(part, folder / "unet" / place)
        places = change(places, folder / "unet") or places
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))

    return damage


def renamed(place):
    """A shard lies at `place` in the index's words."""
    return sharded(lambda places, _: dict.fromkeys(places, place))


class Bomb:
    """A pickle of this makes a folder when it is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(folder):
    (folder / UNET).write_bytes(pickle.dumps(Bomb(folder.parent / "boom")))


def zipped(folder):
    with zipfile.ZipFile(folder / UNET, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb(folder.parent / "boom")))


def code_beside(folder):
    """Code that a loader might import, and a setting that asks it to."""
    for name in ("unet/model.py", "pipeline.py", "__init__.py"):
        (folder / name).write_text(f"import os; os.mkdir({str(folder.parent / 'boom')!r})")
    settings("unet/config.json", auto_map={"AutoModel": "model.UNet"})(folder)


def sparse(path, size):
    """A file of `size` zero bytes that take no room on the disk."""

    def damage(folder):
        with (folder / path).open("wb") as file:
            file.truncate(size)

    return damage


def second_copy(places, folder):
    """Both shards hold one tensor, and the index names one of them."""
    first, second = (load_file(folder / SHARD.format(i)) for i in (1, 2))
    name = next(iter(first))
    save_file({**second, name: first[name] + 1}, folder / SHARD.format(2))


def spoil(dtype=None, value=None):
    """One tensor in another dtype, or with one value in it."""

    def change(held):
        held[CONV] = held[CONV] if dtype is None else held[CONV].astype(dtype)
        if value is not None:
            held[CONV][1, 2, 0, 0] = value

    return tensors(UNET, change)


def entry(**changes):
    return header(UNET, lambda head: head[CONV].update(changes))


def quarter(head):
    """The first quarter of a tensor's bytes is said to be all of it, the rest another tensor."""
    start, end = head[CONV]["data_offsets"]
    middle = start + (end - start) // 4
    head[CONV].update(dtype="F8_E4M3", data_offsets=[start, middle])
    head["rest"] = {"dtype": "U8", "shape": [end - middle], "data_offsets": [middle, end]}


def without(name):
    def change(held):
        del held[name]

    return change


def tiny_vae(stages=2, **changes):
    """There is a tiny autoencoder, without weights."""

    def damage(folder):
        (folder / "tiny_vae").mkdir()
        names = ("encoder_block_out_channels", "decoder_block_out_channels")
        config = dict.fromkeys(names, [8] * stages)
        config |= dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), [1] * stages)
        config |= {"_class_name": "AutoencoderTiny", **changes}
        (folder / "tiny_vae" / "config.json").write_text(json.dumps(config))

    return damage


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 3438167540\n"
HTML = "<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head></html>\n"
UNET_CONFIG, VAE_CONFIG, TEXT_CONFIG = (f"{f}/config.json" for f in ("unet", "vae", "text_encoder"))
SCHEDULER = "scheduler/scheduler_config.json"
SAMPLER = "sampler.json"
TOKENS = "tokenizer/tokenizer_config.json"

KINDS = {
    # Weight files that are something else.
    "empty file": (holds(UNET, b""), [UNET, "empty", "again"]),
    "git-lfs pointer": (holds(VAE, LFS), [VAE, "git lfs pull"]),
    "HTML error page": (holds(TEXT, HTML), [TEXT, "web page", "download"]),
    "JSON error": (holds(UNET, '{"error": "not found"}'), [UNET, "JSON text", "again"]),
    "pickle": (pickled, [UNET, "pickle", "safetensors"]),
    "zip of a pickle": (zipped, [UNET, "pickle", "safetensors"]),
    "gzip": (holds(UNET, b"\x1f\x8b\x08" + bytes(99)), [UNET, "not a safetensors file"]),
    "zeros": (sparse(UNET, 10**10), [UNET, "not a safetensors file", "again"]),
    "folder": (replaced(UNET, lambda p, _: p.mkdir()), [UNET, "not a regular file"]),
    "pipe": (replaced(UNET, lambda p, _: os.mkfifo(p)), [UNET, "not a regular file"]),
    # Weight files that are damaged.
    "half a file": (cut(VAE, 20_000), [VAE, "truncated", "again"]),
    "a file short of one byte": (cut(UNET, -1), [UNET, "truncated", "again"]),
    "half a header": (cut(UNET, 500), [UNET, "truncated", "again"]),
    "trailing bytes": (
        lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes() + b"x" * 9),
        [UNET, "too long"],
    ),
    "header length of exabytes": (flipped(UNET, 7, 64), [UNET, "again"]),
    "header length of 90 MB": (
        holds(UNET, struct.pack("<Q", 90_000_000) + b'{"a": 1}'),
        [UNET, "truncated"],
    ),
    "header of 90 MB of nothing": (
        lambda folder: (
            holds(UNET, struct.pack("<Q", 90_000_000) + b"{")(folder)
            or os.truncate(folder / UNET, 90_000_008)
        ),
        [UNET, "header of 90000000 bytes", "again"],
    ),
    "bit flipped in the header's syntax": (flipped(UNET, 8), [UNET, "again"]),
    "bit flipped in a tensor's name": (
        header(UNET, lambda head: head.update({"conv_im.weight": head.pop(CONV)})),
        [f"{CONV} in unet", f"conv_im.weight in {UNET}", "1 missing", "1 unexpected"],
    ),
    "overlapping tensors": (
        entry(data_offsets=[0, 2304]),
        [UNET, "tensor", "overlaps", "again"],
    ),
    "gap between tensors": (
        header(
            UNET,
            lambda head: [
                e.update(data_offsets=[o + 64 for o in e["data_offsets"]])
                for n, e in head.items()
                if n != "__metadata__"
            ],
        ),
        [UNET, "tensor", "gap", "again"],
    ),
    "size and shape disagree": (entry(shape=[16, 4, 3, 4]), [UNET, CONV, "2304", "3072"]),
    "shape of exabytes": (entry(shape=[2**40, 2**30]), [UNET, CONV, "2304"]),
    "negative shape": (entry(shape=[-16, -4, 3, 3]), [UNET, CONV, "shape [-16"]),
    "offsets past the end": (entry(data_offsets=[2**40, 2**40 + 2304]), [UNET, "gap"]),
    "unknown dtype": (entry(dtype="F99"), [UNET, CONV, "F99", "again"]),
    # Weights that are not this model's.
    "missing tensor": (tensors(UNET, without(CONV)), ["1 missing", f"{CONV} in unet"]),
    "unexpected tensor": (
        tensors(VAE, lambda held: held.update(surprise=np.zeros(3, np.float32))),
        ["1 unexpected", f"surprise in {VAE}"],
    ),
    "wrong shape": (
        tensors(UNET, lambda held: held.update({CONV: held[CONV].swapaxes(0, 1).copy()})),
        [UNET, CONV, "(4, 16, 3, 3)", "expected (16, 4, 3, 3)"],
    ),
    "empty tensor of absurd shape": (
        header(
            UNET,
            lambda head: head.update(
                surprise={"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}
            ),
        ),
        ["1 unexpected", "surprise"],
    ),
    "integers": (spoil(np.int32), [UNET, CONV, "I32", "F32"]),
    "booleans": (spoil(bool), [UNET, CONV, "BOOL", "F32"]),
    "8-bit floats": (header(UNET, quarter), [UNET, CONV, "F8_E4M3", "F32"]),
    "NaN": (spoil(value=np.nan), [UNET, CONV, "not finite"]),
    "infinity": (spoil(value=np.inf), [UNET, CONV, "not finite"]),
    "minus infinity in float16": (spoil(np.float16, -np.inf), [UNET, CONV, "not finite"]),
    # Shards and variants.
    "absent shard": (
        sharded(lambda _, folder: (folder / SHARD.format(2)).unlink()),
        [INDEX, "1 of 2 shards", SHARD.format(2)],
    ),
    "shard above the folder": (renamed("../elsewhere.safetensors"), [INDEX, "../elsewhere"]),
    "shard at an absolute path": (renamed("/etc/x.safetensors"), [INDEX, "/etc/x.safetensors"]),
    "shard that is a pickle": (renamed("pytorch_model.bin"), [INDEX, "pytorch_model.bin"]),
    "one tensor in two shards": (sharded(second_copy), [INDEX, "conv_in.bias", "two shards"]),
    "tensor that no shard has": (
        sharded(lambda places, _: {**places, "x": SHARD.format(1)}),
        [INDEX, "1 tensors that its shards lack", "x"],
    ),
    "tensor that the index leaves out": (
        sharded(lambda places, _: dict(list(places.items())[1:])),
        [INDEX, "1 tensors that it leaves out"],
    ),
    "index that is a list": (sharded(lambda places, _: list(places)), [INDEX, "weight_map"]),
    "index that is a web page": (
        lambda folder: sharded(lambda *_: None)(folder) or holds(INDEX, HTML)(folder),
        [INDEX, "not usable JSON"],
    ),
    "only a pickle": (
        lambda folder: (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin"),
        ["unet", "diffusion_pytorch_model.bin", "safetensors"],
    ),
    "no weights": (gone(UNET), ["unet", "no weights", "diffusion_pytorch_model.safetensors"]),
    # Links.
    "dangling link": (
        replaced(UNET, lambda p, _: p.symlink_to(p.with_name("nowhere"))),
        [UNET, "not a regular file"],
    ),
    "link to itself": (
        replaced(UNET, lambda p, _: p.symlink_to(p.name)),
        [UNET, "not a regular file"],
    ),
    # Settings of networks.
    "2**40 channels": (
        settings(UNET_CONFIG, block_out_channels=[2**40, 32]),
        [UNET_CONFIG, "block_out_channels", "1099511627776"],
    ),
    "a size beyond 64 bits": (settings(VAE_CONFIG, latent_channels=2**200), [VAE_CONFIG, "latent"]),
    "a number of 5000 digits": (
        holds(UNET_CONFIG, '{"in_channels": ' + "9" * 5000 + "}"),
        [UNET_CONFIG],
    ),
    "negative size": (settings(TEXT_CONFIG, hidden_size=-16), [TEXT_CONFIG, "hidden_size", "-16"]),
    "fractional size": (settings(UNET_CONFIG, in_channels=4.0), [UNET_CONFIG, "in_channels"]),
    "size in a string": (settings(UNET_CONFIG, layers_per_block="2"), [UNET_CONFIG, "'2'"]),
    "size that is true": (settings(UNET_CONFIG, layers_per_block=True), [UNET_CONFIG, "True"]),
    "size in nested lists": (
        settings(UNET_CONFIG, block_out_channels=[[16], [32]]),
        [UNET_CONFIG, "block_out_channels"],
    ),
    "size that is an object": (settings(UNET_CONFIG, in_channels={"a": 4}), [UNET_CONFIG, "in_ch"]),
    "NaN in settings": (settings(VAE_CONFIG, scaling_factor=float("nan")), [VAE_CONFIG, "NaN"]),
    "infinity in settings": (
        settings(VAE_CONFIG, scaling_factor=float("inf")),
        [VAE_CONFIG, "scaling_factor", "inf"],
    ),
    "10**5 blocks": (
        settings(UNET_CONFIG, block_out_channels=[16] * 10**5),
        [UNET_CONFIG, "100000 entries"],
    ),
    "10**6 layers": (settings(TEXT_CONFIG, num_hidden_layers=10**6), [TEXT_CONFIG, "num_hidden"]),
    "999 layers of a million": (
        settings(TEXT_CONFIG, num_hidden_layers=999, hidden_size=2**20 - 2),
        ["text_encoder"],
    ),
    "unknown setting": (settings(UNET_CONFIG, twist=3), [UNET_CONFIG, "twist"]),
    "auto_map": (code_beside, [UNET_CONFIG, "auto_map", "code"]),
    "another class in the settings": (
        settings(UNET_CONFIG, _class_name="UNet3DConditionModel"),
        [UNET_CONFIG, "UNet3DConditionModel", "UNet2DConditionModel"],
    ),
    "settings of another component": (
        lambda folder: holds(UNET_CONFIG, (folder / VAE_CONFIG).read_bytes())(folder),
        [UNET_CONFIG, "AutoencoderKL"],
    ),
    "settings missing": (gone(TEXT_CONFIG), [TEXT_CONFIG, "does not exist", "incomplete"]),
    "settings cut off": (cut(UNET_CONFIG, 100), [UNET_CONFIG, "not usable JSON", "again"]),
    "settings empty": (holds(UNET_CONFIG, ""), [UNET_CONFIG, "not usable JSON", "again"]),
    "settings a list": (holds(UNET_CONFIG, "[1]"), [UNET_CONFIG, "JSON object"]),
    "settings not UTF-8": (holds(UNET_CONFIG, b'{"a": "\xff\xfe"}'), [UNET_CONFIG, "JSON"]),
    "settings nested deeply": (holds(UNET_CONFIG, '{"a":' * 10**5), [UNET_CONFIG, "deeply"]),
    "a setting given twice": (holds(VAE_CONFIG, '{"a": 1, "a": 2}'), [VAE_CONFIG, "twice"]),
    "settings of 10 GB": (sparse(UNET_CONFIG, 10**10), [UNET_CONFIG, "10000000000 bytes"]),
    "settings that are a pointer": (holds(UNET_CONFIG, LFS), [UNET_CONFIG, "git lfs pull"]),
    # The model as a whole.
    "no model_index.json": (gone("model_index.json"), ["model_index.json", "not a model folder"]),
    "another pipeline": (
        settings("model_index.json", _class_name="FluxPipeline"),
        ["model_index.json", "FluxPipeline"],
    ),
    "a pipeline in code": (
        settings("model_index.json", _class_name=["pipeline", "Mine"]),
        ["model_index.json", "Mine"],
    ),
    "a component of a foreign library": (
        settings("model_index.json", unet=["evil_lib", "UNet2DConditionModel"]),
        ["model_index.json", "unet", "evil_lib"],
    ),
    "a component of an unsupported class": (
        settings("model_index.json", unet=["diffusers", "UNet3DConditionModel"]),
        ["model_index.json", "UNet3DConditionModel"],
    ),
    "a component with a path for a name": (
        settings("model_index.json", **{"../unet": ["diffusers", "UNet2DConditionModel"]}),
        ["model_index.json", "../unet"],
    ),
    "a component at an absolute path": (
        settings("model_index.json", **{"/etc": ["diffusers", "UNet2DConditionModel"]}),
        ["model_index.json", "/etc"],
    ),
    "a component not named": (settings("model_index.json", vae=...), ["model_index.json", "vae"]),
    "a component's folder missing": (gone("vae"), [VAE_CONFIG, "does not exist"]),
    "components of different models": (
        settings(UNET_CONFIG, cross_attention_dim=32),
        ["cross_attention_dim is 32", "gives 16"],
    ),
    # The model's own defaults, and its tiny autoencoder.
    "defaults that are a list": (holds(SAMPLER, "[16]"), [SAMPLER, "not usable JSON"]),
    "defaults that are not JSON": (holds(SAMPLER, "steps: 16"), [SAMPLER, "not usable JSON"]),
    "an unknown default": (
        holds(SAMPLER, '{"stepz": 16}'),
        [SAMPLER, "unknown setting 'stepz'", "or remove the file"],
    ),
    "the default of another group": (holds(SAMPLER, '{"zoom_factor": 4}'), [SAMPLER, "unknown"]),
    "a default in a string": (
        holds(SAMPLER, '{"steps": "16"}'),
        [f"{SAMPLER}: steps: expected a whole number, got '16'"],
    ),
    "a default out of range": (holds(SAMPLER, '{"steps": 0}'), [f"{SAMPLER}: steps: expected"]),
    "a default that is null": (holds(SAMPLER, '{"solver": null}'), [f"{SAMPLER}: solver"]),
    "a solver of its own": (
        holds(SAMPLER, '{"solver": "dpm_fast"}'),
        [f"{SAMPLER}: solver: expected"],
    ),
    "defaults that do not fit each other": (
        holds(SAMPLER, '{"solver": "euler", "eta": 0.5}'),
        [f"{SAMPLER}: eta: expected 0"],
    ),
    "defaults that are a folder": (
        lambda folder: (folder / SAMPLER).mkdir(),
        [SAMPLER, "is not a regular file"],
    ),
    "an empty tiny autoencoder": (
        lambda folder: (folder / "tiny_vae").mkdir(),
        ["tiny_vae/config.json", "does not exist"],
    ),
    "a tiny autoencoder without weights": (tiny_vae(), ["tiny_vae", "no weights"]),
    "a tiny autoencoder of other latents": (
        tiny_vae(latent_channels=16),
        ["tiny_vae's latent_channels is 16, but its vae gives 4"],
    ),
    "a tiny autoencoder of another factor": (
        tiny_vae(stages=4),
        ["tiny_vae's downsample_factor is 8, but its vae gives 2"],
    ),
    "a large autoencoder in its place": (
        lambda folder: shutil.copytree(folder / "vae", folder / "tiny_vae"),
        ["tiny_vae/config.json", "AutoencoderKL", "AutoencoderTiny"],
    ),
    # Tokenizer and scheduler.
    "tokenizer missing": (gone("tokenizer"), ["tokenizer/vocab.json", "does not exist"]),
    "tokenizer cut off": (cut("tokenizer/tokenizer.json", 99), ["tokenizer.json", "JSON"]),
    "tokenizer of the wrong form": (holds("tokenizer/tokenizer.json", "{}"), ["cannot be read"]),
    "a vocabulary too small": (
        settings(TEXT_CONFIG, vocab_size=208),
        ["tokenizer", "80 tokens", "208"],
    ),
    "a vocabulary too large": (
        settings(TEXT_CONFIG, vocab_size=79, eos_token_id=78),
        ["tokenizer", "ids up to 79", "79"],
    ),
    "a special token that is not in the vocabulary": (
        settings(TOKENS, eos_token="<|nothing|>"),
        ["tokenizer", "ids up to 80"],
    ),
    "tokenizer in code": (settings(TOKENS, auto_map={"a": "b"}), [TOKENS, "auto_map"]),
    "tokenizer at another place": (settings(TOKENS, vocab_file="/etc/passwd"), [TOKENS, "/etc"]),
    "scheduler missing": (gone(SCHEDULER), [SCHEDULER, "does not exist"]),
    "unknown scheduler": (settings(SCHEDULER, beta_schedule="mine"), [SCHEDULER, "mine"]),
    "10**12 timesteps": (settings(SCHEDULER, num_train_timesteps=10**12), [SCHEDULER, "num_train"]),
}

# Of SDXL alone.
TEXT_2, TEXT_2_CONFIG = "text_encoder_2/model.safetensors", "text_encoder_2/config.json"
PROJECTION, ADDED = "text_projection.weight", "projection_class_embeddings_input_dim"


def swapped(first, second):
    def damage(folder):
        (folder / first).rename(folder.parent / "elsewhere")
        (folder / second).rename(folder / first)
        (folder.parent / "elsewhere").rename(folder / second)

    return damage


def index(**changes):
    return settings("model_index.json", **changes)


XL_KINDS = {
    "no second encoder": (gone("text_encoder_2"), [TEXT_2_CONFIG, "does not exist"]),
    "a second encoder not named": (index(text_encoder_2=...), ["names no text_encoder_2"]),
    "a second encoder that is null": (index(text_encoder_2=[None, None]), ["text_encoder_2"]),
    "a second encoder that does not project": (
        index(text_encoder_2=["transformers", "CLIPTextModel"]),
        ["text_encoder_2's class CLIPTextModel is not supported", "WithProjection"],
    ),
    "the second encoder's weights missing": (gone(TEXT_2), ["text_encoder_2", "no weights"]),
    "no projection": (
        tensors(TEXT_2, without(PROJECTION)),
        [f"1 missing ({PROJECTION} in text_encoder_2)"],
    ),
    "a projection of another width": (
        tensors(TEXT_2, lambda held: held.update({PROJECTION: held[PROJECTION][:16].copy()})),
        [f"1 misshapen ({PROJECTION} in {TEXT_2} (shape (16, 24), expected (20, 24)))"],
    ),
    "a projection that is not finite": (
        tensors(TEXT_2, lambda held: held.update({PROJECTION: held[PROJECTION] * np.nan})),
        [PROJECTION, "not finite"],
    ),
    "a projection said to be of another width": (
        settings(TEXT_2_CONFIG, projection_dim=16),
        [f"{ADDED} is 68", "gives 64"],
    ),
    "a projection of no width": (settings(TEXT_2_CONFIG, projection_dim=None), ["projection_dim"]),
    "a second encoder of another width": (
        settings(TEXT_2_CONFIG, hidden_size=48),
        ["cross_attention_dim is 40", "gives 64"],
    ),
    "encoders swapped": (
        swapped("text_encoder", "text_encoder_2"),
        ["text_encoder/config.json is of a CLIPTextModelWithProjection", "CLIPTextModel;"],
    ),
    "ids that do not add up": (
        settings(UNET_CONFIG, **{ADDED: 62}),
        [f"{ADDED} is 62", "gives 68"],
    ),
    "sines of another number": (
        settings(UNET_CONFIG, addition_time_embed_dim=16),
        [f"{ADDED} is 68", "gives 116"],
    ),
    "a UNet without sizes": (
        settings(UNET_CONFIG, addition_embed_type=None),
        [f"{ADDED} is None", "gives 68"],
    ),
    "no weights for sizes": (
        tensors(UNET, without("add_embedding.linear_1.weight")),
        ["1 missing (add_embedding.linear_1.weight in unet)"],
    ),
    "four channels for inpainting": (
        index(_class_name="StableDiffusionXLInpaintPipeline"),
        ["in_channels is 4", "vae with 5 channels besides the latents gives 9"],
    ),
    "SDXL under an older name": (
        index(_class_name="StableDiffusionPipeline"),
        ["the component text_encoder_2", "is not supported"],
    ),
    "no second tokenizer": (gone("tokenizer_2"), ["tokenizer_2/", "does not exist"]),
    "a second tokenizer cut off": (cut("tokenizer_2/tokenizer.json", 99), ["tokenizer_2/", "JSON"]),
    "the refiner": (
        index(text_encoder=[None, None]),
        ["is SDXL's refiner, which is not supported"],
    ),
    "Playground": (
        index(scheduler=["diffusers", "EDMDPMSolverMultistepScheduler"]),
        ["Playground v2.5", "not supported"],
    ),
}
