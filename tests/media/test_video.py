"""The movie against a world whose every view is known: a spiral that looks alike at every scale."""

import hashlib
import os

import av
import numpy as np
import pytest
from PIL import Image

from pot_jax.config import MovieSettings
from pot_jax.errors import UserError
from pot_jax.media import camera, encoding, video
from pot_jax.media.encoding import write_video
from pot_jax.media.pixels import to_bytes
from pot_jax.media.video import check_movie
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry


def spiral(y, x, p):
    """Brightness at a place measured from the point that the zoom falls to; period log p."""
    turns = np.log(np.hypot(y, x) + 1e-300) / np.log(p) * 2 * np.pi
    angle = np.arctan2(y, x)
    waves = [turns + 3 * angle, 2 * turns + 4 * angle + 1, turns - 5 * angle]
    return 0.7 * np.sin(np.stack(waves, -1))


def seen(focus, extent, shape, p):
    """The mean of the spiral in each pixel of a view with the focus at `focus` (of its sides)."""
    fine = 4
    y, x = (((np.arange(n * fine) + 0.5) / (n * fine) - u) * extent for n, u in zip(shape, focus))
    picture = spiral(*np.meshgrid(y, x, indexing="ij"), p)
    return picture.reshape(shape[0], fine, shape[1], fine, 3).mean((1, 3))


def known_world(geometry):
    """A zoom that agrees, of a spiral about the fixed point; and where that is in the view at t."""
    p, shape = geometry.zoom_factor, (geometry.height, geometry.width)
    focus = np.asarray(camera.fixed_point(geometry))
    raw = np.stack([seen(u, float(p) ** -i, shape, p) for i, u in enumerate(focus)])
    return np.asarray(operators.render(raw.astype(np.float32), geometry)), camera.course(geometry)


CENTRED = Geometry(5, 2, 48, 48)


class TestPath:
    def test_constant_rate_and_ends(self):
        path = camera.zoom_path(8, MovieSettings(seconds_per_level=0.5, fps=30, hold=0.2))
        assert len(path) == 6 + 7 * 15 + 1 + 6
        assert (path[:7] == 0).all()
        assert (path[-7:] == 7).all()
        np.testing.assert_allclose(np.diff(path[6:-6]), 1 / 15)

    def test_out_is_in_reversed_and_both_loops(self):
        options = {"seconds_per_level": 1.0, "fps": 10, "hold": 0.3}
        there = camera.zoom_path(4, MovieSettings(**options))
        out = camera.zoom_path(4, MovieSettings(**options, direction="out"))
        np.testing.assert_array_equal(out, there[::-1])
        both = camera.zoom_path(4, MovieSettings(**options, direction="both"))
        np.testing.assert_array_equal(both[: len(there)], there)
        assert both[-1] == 0
        assert np.abs(np.diff(both)).max() < 0.1001

    def test_one_level_rests(self):
        path = camera.zoom_path(1, MovieSettings(seconds_per_level=1.0, fps=10, hold=0.5))
        np.testing.assert_array_equal(path, np.zeros(11))


class TestFixedPoint:
    @pytest.mark.parametrize("levels", [1, 2, 64])
    def test_centre(self, levels):
        np.testing.assert_allclose(camera.fixed_point(Geometry(levels, 2, 16, 24)), 0.5, atol=1e-15)

    def test_off_centre(self):
        geometry = Geometry(64, 2, 16, 16, ((2, -4),) * 63)
        # Always the same window of corner c: u = c + u / 2.
        np.testing.assert_allclose(camera.fixed_point(geometry), [[2 * 6 / 16, 0]] * 64, atol=1e-12)
        mixed = Geometry(3, 2, 16, 16, ((2, -4), (-4, 4)))
        u = camera.fixed_point(mixed)
        np.testing.assert_allclose(u[0], u[2])
        np.testing.assert_allclose(u[:-1], mixed.corners / 16 + u[1:] / 2)


class TestFrames:
    @pytest.mark.parametrize("p", [2, 3, 4])
    def test_whole_levels_are_the_pictures(self, p):
        geometry = Geometry(4, p, 36, 72) if p != 4 else Geometry(4, 4, 40, 72)
        images, _ = known_world(geometry)
        frames = list(video.zoom_frames(images, geometry, range(4)))
        np.testing.assert_array_equal(frames, to_bytes(images))

    @pytest.mark.parametrize(
        ("geometry", "limit"),
        [
            (CENTRED, 3),
            (Geometry(4, 3, 54, 54), 3),
            (Geometry(40, 2, 32, 32), 8),  # coarser
            # Far off centre, a level leaves a margin of the view to the wider, coarser ones.
            (Geometry(5, 2, 48, 64, ((6, -8), (0, 4), (-12, 16), (2, 2))), 7),
        ],
        ids=str,
    )
    def test_every_view_is_the_worlds(self, geometry, limit):
        images, look = known_world(geometry)
        shape = video.frame_shape(geometry.height, geometry.width, 96)
        for t in (0.0, 1.5, geometry.levels - 2.29):
            (frame,) = video.zoom_frames(images, geometry, [t], size=96)
            p = geometry.zoom_factor

            def error(shift, frame=frame, t=t, p=p):
                place = look(t) + shift / np.array(shape)
                truth = (seen(place, float(p) ** -t, shape, p) + 1) * 127.5
                y, x = (np.arange(n) + 0.5 - u * n for n, u in zip(shape, look(t)))
                resolved = np.hypot(*np.meshgrid(y, x, indexing="ij")) > 12
                return np.sqrt(np.mean((frame - truth)[resolved] ** 2))

            assert error(0) < limit  # of 255: what interpolating to 96 pixels misses
            # A tenth of a frame's pixel from its place, the same frame is worse.
            assert all(error(s) > error(0) for s in np.eye(2) * 0.1)
            assert all(error(-s) > error(0) for s in np.eye(2) * 0.1)

    @pytest.mark.parametrize("size", [32, 100])
    def test_nothing_pops(self, size):
        # The spiral turns at a constant rate in log scale: its movie changes evenly.
        geometry = Geometry(4, 2, 64, 64)
        images, _ = known_world(geometry)
        path = video.np.arange(121) / 60  # one level deeper follows at the end
        frames = video.zoom_frames(images, geometry, path, size=size)
        movie = np.stack(list(frames)).astype(np.float32)
        steps = np.abs(np.diff(movie, axis=0)).mean((1, 2, 3))
        assert steps.max() < 1.1 * steps.min()
        # Second differences show a pop that the motion itself would hide: leaving out the deeper
        # levels until they fill the frame at least doubles them there.
        bends = np.abs(np.diff(movie, 2, axis=0)).mean((1, 2, 3))
        phase = path[1:-1] % 1
        at_change = np.minimum(phase, 1 - phase) < 1.01 * path[1]
        assert bends[at_change].max() < 1.25 * bends[~at_change].max()

    def test_off_centre_nothing_pops(self):
        geometry = Geometry(5, 2, 64, 64, ((8, -8), (-16, 16), (4, 0), (0, 12)))
        images, look = known_world(geometry)
        path, shape = np.linspace(0, 4, 49), (96, 96)

        def steps(frames):
            return np.abs(np.diff(np.stack(frames).astype(np.float32), axis=0)).mean((1, 2, 3))

        # The camera's own speed varies; a pop would be in the frames and not in the world.
        seen_ = [(seen(look(t), 2.0**-t, shape, 2) + 1) * 127.5 for t in path]
        ratio = steps(list(video.zoom_frames(images, geometry, path, size=96))) / steps(seen_)
        assert np.abs(np.diff(ratio)).max() < 0.03

    def test_a_flat_world_stays_flat(self):
        geometry = Geometry(4, 2, 32, 32, ((1, -3),) * 3)
        frames = video.zoom_frames(
            np.full((4, 32, 32, 3), 0.2), geometry, np.linspace(0, 3, 17), size=60
        )
        assert {int(value) for frame in frames for value in np.unique(frame)} == {153}

    def test_planes_are_those_of_the_rgb_frames(self):
        geometry = Geometry(4, 2, 48, 64, ((6, -8), (0, 4), (-12, 16)))
        images, _ = known_world(geometry)
        path = [0.0, 0.7, 1.5, 3.0]
        planes = video.zoom_frames(images, geometry, path, size=96, pix_fmt="yuv420p")
        for frame, rgb in zip(planes, video.zoom_frames(images, geometry, path, size=96)):
            wanted = encoding.to_yuv(rgb).to_ndarray()
            assert frame.shape == wanted.shape == (144, 128)
            error = np.abs(frame.astype(float) - wanted)
            assert error[:96].max() <= 3  # Y: the rounding of levels and of layers
            # U and V are shrunk before they are laid over instead of after; no shift is as near.
            moved = np.abs(np.roll(frame, 1, axis=1).astype(float) - wanted)
            assert error[96:].mean() < min(1.5, 0.5 * moved[96:].mean())

    def test_a_cropped_frame_is_the_middle_of_the_whole(self):
        for shape in ((64, 64), (48, 64)):
            geometry = Geometry(4, 2, *shape, ((6, -8), (0, 4), (-12, 16)))
            images, _ = known_world(geometry)
            path = [0.0, 0.7, 1.5, 3.0]
            whole = video.zoom_frames(images, geometry, path, size=96 * min(shape) // 48)
            for frame, full in zip(
                video.zoom_frames(images, geometry, path, size=64, aspect=2.0), whole
            ):
                assert frame.shape == (64, 128, 3)
                rows = (full.shape[0] - 64) // 2
                middle = full[rows : rows + 64, :]
                # Rounding, and edges that are soft on a shorter way: a shift is far worse.
                assert np.abs(frame.astype(int) - middle).mean() < 1
                moved = np.roll(middle, 1, axis=0).astype(int)
                assert np.abs(frame.astype(int) - moved).mean() > 2

    @pytest.mark.parametrize("pix_fmt", ["rgb24", "yuv420p"])
    @pytest.mark.parametrize("aspect", [2.0, 0.5, 10.0])
    def test_a_letterbox_holds_the_whole_on_black(self, pix_fmt, aspect):
        geometry = Geometry(3, 2, 48, 48)
        images, _ = known_world(geometry)
        how = {"size": 96, "pix_fmt": pix_fmt}
        (frame,) = video.zoom_frames(images, geometry, [1.3], aspect=aspect, fit="letterbox", **how)
        (whole,) = video.zoom_frames(images, geometry, [1.3], **how)
        if aspect < 1:
            h, w, rows, columns = 192, 96, slice(48, 144), slice(0, 96)
        else:
            w = int(96 * aspect)
            h, rows, columns = 96, slice(0, 96), slice((w - 96) // 2, (w + 96) // 2)
        luma, inner = frame[:h], whole[:96]
        np.testing.assert_array_equal(luma[rows, columns], inner)
        rest = luma.copy()
        rest[rows, columns] = 0 if pix_fmt == "rgb24" else 16
        assert (rest == (0 if pix_fmt == "rgb24" else 16)).all()
        assert luma.shape[:2] == (h, w)
        if pix_fmt == "yuv420p":
            u, v = frame[h:].reshape(2, h // 2, w // 2)
            part = (
                slice(rows.start // 2, rows.stop // 2),
                slice(columns.start // 2, columns.stop // 2),
            )
            np.testing.assert_array_equal(np.stack([u[part], v[part]]).ravel(), whole[96:].ravel())
            assert (u[0, 0] == 128) == (aspect != 1)

    def test_what_centred_films_have_always_been(self):
        # Digests of the frames of commit 88ed2b1, whose camera kept one point fixed on the screen.
        known = {
            Geometry(5, 2, 48, 64): "d8cb9ebaab83288c",
            Geometry(3, 3, 54, 54, loop=True): "e60ae18ea9dc3ed3",
            Geometry(4, 2, 48, 48, ((4, -8),) * 3): "4119adda708577c5",
        }
        for geometry, digest in known.items():
            shape = (geometry.levels, geometry.height, geometry.width, 3)
            images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
            path, found = np.linspace(0, geometry.windows, 41), hashlib.sha256()
            for frame in video.zoom_frames(images, geometry, path, size=70):
                found.update(frame.tobytes())
            assert found.hexdigest()[:16] == digest

    def test_rest_repeats_the_frame(self):
        images, _ = known_world(CENTRED)
        first, second = video.zoom_frames(images, CENTRED, [1.5, 1.5])
        assert first is second

    def test_shapes(self):
        assert video.frame_shape(64, 96, 512) == (512, 768)
        assert video.frame_shape(25, 35) == (26, 36)
        geometry = Geometry(1, 5, 25, 35)
        (frame,) = video.zoom_frames(np.zeros((1, 25, 35, 3)), geometry, [0])
        assert frame.shape == (26, 36, 3)
        assert frame.dtype == np.uint8

    def test_errors(self):
        with pytest.raises(UserError, match="N, H, W = .5, 48, 48., got .4, 48, 48, 3."):
            next(video.zoom_frames(np.zeros((4, 48, 48, 3)), CENTRED, [0]))
        with pytest.raises(UserError, match="images: expected 3 colours"):
            next(video.zoom_frames(np.zeros((5, 48, 48, 4)), CENTRED, [0]))
        for t in (-0.1, 4.1, float("nan")):
            with pytest.raises(UserError, match="outside 0 to 4"):
                next(video.zoom_frames(np.zeros((5, 48, 48, 3)), CENTRED, [t]))
        for size in (0, -16, float("nan")):
            with pytest.raises(UserError, match=f"at least 1 pixel, got size {size}"):
                video.frame_shape(48, 48, size)


class TestLoop:
    GEOMETRIES = [
        Geometry(4, 2, 48, 48, loop=True),
        Geometry(2, 3, 54, 54, loop=True),
        Geometry(3, 2, 48, 64, ((6, -8), (0, 4), (-10, 2)), loop=True),
    ]

    def test_the_last_frame_is_the_one_before_the_first(self):
        options = {"seconds_per_level": 0.5, "fps": 10}
        there = camera.zoom_path(4, MovieSettings(**options), loop=True)
        np.testing.assert_allclose(there, np.arange(20) / 5)
        out = camera.zoom_path(4, MovieSettings(**options, direction="out"), loop=True)
        np.testing.assert_allclose(out, 4 - np.arange(20) / 5)
        both = camera.zoom_path(4, MovieSettings(**options, direction="both"), loop=True)
        np.testing.assert_allclose(both, [*there, *out])
        one = MovieSettings(seconds_per_level=1e-9, fps=1)
        np.testing.assert_array_equal(camera.zoom_path(3, one, loop=True), [0])

    def test_the_fixed_point_lies_alike_in_every_turn(self):
        for geometry in self.GEOMETRIES:
            u = np.asarray(camera.fixed_point(geometry))
            sides = geometry.height, geometry.width
            place = geometry.corners / sides + np.roll(u, -1, axis=0) / geometry.zoom_factor
            np.testing.assert_allclose(u, place, atol=1e-15)

    @pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
    def test_the_film_ends_where_it_begins_and_every_view_is_the_worlds(self, geometry):
        # The spiral repeats at every factor p, so that a loop can show it.
        images, look = known_world(geometry)
        shape = video.frame_shape(geometry.height, geometry.width, 96)
        levels, p = geometry.levels, geometry.zoom_factor
        first, last = video.zoom_frames(images, geometry, [0, levels], size=96)
        np.testing.assert_array_equal(first, last)
        path = [levels - 1.4, levels - 0.6, levels - 0.01]
        for t, frame in zip(path, video.zoom_frames(images, geometry, path, size=96)):
            truth = (seen(look(t), float(p) ** -t, shape, p) + 1) * 127.5
            y, x = (np.arange(n) + 0.5 - u * n for n, u in zip(shape, look(t)))
            resolved = np.hypot(*np.meshgrid(y, x, indexing="ij")) > 12
            assert np.sqrt(np.mean((frame - truth)[resolved] ** 2)) < 7

    def test_nothing_pops_at_the_joint(self):
        geometry = Geometry(3, 2, 64, 64, loop=True)
        images, _ = known_world(geometry)
        path = camera.zoom_path(3, MovieSettings(seconds_per_level=1.0, fps=20), loop=True)
        path = [*path[30:], *path[:30]]
        movie = np.stack(list(video.zoom_frames(images, geometry, path, size=64)))
        steps = np.abs(np.diff(movie.astype(np.float32), axis=0)).mean((1, 2, 3))
        assert steps.max() < 1.1 * steps.min()

    def test_errors(self):
        geometry = self.GEOMETRIES[0]
        with pytest.raises(UserError, match="level 4.1 is outside 0 to 4"):
            next(video.zoom_frames(np.zeros((4, 48, 48, 3)), geometry, [4.1]))
        with pytest.raises(UserError, match="got 2e.06 seconds"):
            check_movie(Geometry(2, 2, 48, 48, loop=True), MovieSettings(seconds_per_level=1e6))


class TestFile:
    @staticmethod
    def decode(path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]  # not to be read once the container is closed
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            return np.stack(frames), stream.average_rate, stream.codec_context.pix_fmt

    def test_decodes_to_the_frames_and_is_the_same_every_time(self, tmp_path):
        images, _ = known_world(CENTRED)
        path = camera.zoom_path(5, MovieSettings(seconds_per_level=0.2, fps=25, hold=0.1))
        frames = list(video.zoom_frames(images, CENTRED, path, size=96))
        digests = set()
        for name in ("a.mp4", "b.mp4"):
            encoding.write_video(tmp_path / name, iter(frames), 25)
            digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        assert len(digests) == 1
        assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]
        decoded, rate, pixel_format = self.decode(tmp_path / "a.mp4")
        assert decoded.shape == np.shape(frames)
        assert rate == 25
        assert pixel_format == "yuv420p"
        # 4:2:0 halves the resolution of the colours; the luma is nearly whole, 3.3 of 255 here.
        luma = [0.2126, 0.7152, 0.0722]
        assert np.sqrt(np.mean(((decoded - np.array(frames, float)) @ luma) ** 2)) < 4

    @pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (20, 60, 250), (128, 128, 128)])
    def test_colours_survive(self, tmp_path, colour):
        frames = [np.full((64, 64, 3), colour, np.uint8)] * 3
        encoding.write_video(tmp_path / "a.mp4", frames, 30)
        with av.open(str(tmp_path / "a.mp4")) as container:
            context = container.streams.video[0].codec_context
            assert (context.colorspace, context.color_range) == (1, 1)
            frame = next(container.decode(video=0)).to_ndarray(format="yuv420p")
        y, u, v = (frame[rows].mean() for rows in (slice(0, 64), slice(64, 80), slice(80, 96)))
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224  # BT.709, by its definition
        red, blue = y + 1.5748 * v, y + 1.8556 * u
        green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
        np.testing.assert_allclose([red, green, blue], np.array(colour) / 255, atol=0.015)

    def test_odd_sides_are_padded(self, tmp_path):
        encoding.write_video(tmp_path / "a.mp4", [np.full((33, 47, 3), 90, np.uint8)], 29.97)
        decoded, *_ = self.decode(tmp_path / "a.mp4")
        assert decoded.shape == (1, 34, 48, 3)

    def test_errors_leave_nothing(self, tmp_path):
        frames = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)]
        with pytest.raises(UserError, match="at least one frame"):
            encoding.write_video(tmp_path / "a.mp4", [], 30)
        with pytest.raises(UserError, match="frame 1 has shape"):
            encoding.write_video(tmp_path / "a.mp4", frames, 30)
        assert os.listdir(tmp_path) == []
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="a file stands where a folder is needed"):
            encoding.write_video(tmp_path / "file" / "a.mp4", frames[:1], 30)


class TestFormats:
    @staticmethod
    def frames():
        images, _ = known_world(CENTRED)
        return list(video.zoom_frames(images, CENTRED, np.linspace(0, 4, 20), size=96))

    @pytest.mark.parametrize(
        ("ending", "codec", "error"), [("mp4", "h264", 4), ("webm", "vp9", 4), ("gif", "gif", 6)]
    )
    def test_decodes_to_the_frames_at_their_times(self, tmp_path, ending, codec, error):
        frames = self.frames()
        for name in "ab":
            write_video(tmp_path / f"{name}.{ending}", iter(frames), 30)
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
        with av.open(str(tmp_path / f"a.{ending}")) as container:
            assert container.streams.video[0].codec_context.name == codec
            decoded = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        times, pictures = zip(*decoded)
        np.testing.assert_allclose(times, np.arange(20) / 30, atol=0.006)
        # Of luma, as 4:2:0 halves the resolution of colours: 3.3 and 5.6 of 255 in MP4 and GIF.
        change = (np.array(pictures, float) - np.array(frames)) @ [0.2126, 0.7152, 0.0722]
        assert np.sqrt(np.mean(change**2)) < error

    def test_a_gif_repeats_and_each_frame_has_its_palette(self, tmp_path):
        frames = [np.full((32, 32, 3), colour, np.uint8) for colour in ((200, 9, 40), (7, 80, 220))]
        write_video(tmp_path / "a.gif", frames, 25, comment="é" * 400)
        with Image.open(tmp_path / "a.gif") as movie:
            assert movie.info["loop"] == 0
            for index, frame in enumerate(frames):
                movie.seek(index)
                assert np.abs(np.asarray(movie.convert("RGB")).astype(int) - frame).max() <= 4
        with pytest.raises(UserError, match="movie.fps: expected at most 50 for a .gif, got 60"):
            write_video(tmp_path / "b.gif", frames, 60)
        assert os.listdir(tmp_path) == ["a.gif"]

    @pytest.mark.parametrize("ending", list(encoding.FORMATS))
    def test_a_comment_is_kept_whole_and_nothing_else_is_told(self, tmp_path, ending):
        frames = self.frames()[:2]
        comment = '{"prompts": ["é 星"], "rest": "' + "x" * 100_000 + '"}'
        write_video(tmp_path / f"with{ending}", frames, 30, comment=comment)
        write_video(tmp_path / f"without{ending}", frames, 30)
        plain = (tmp_path / f"without{ending}").read_bytes()
        if ending == ".gif":
            data, blocks = (tmp_path / "with.gif").read_bytes(), b""
            assert data.startswith(plain[:-1] + b"\x21\xfe")
            data = data[len(plain) + 1 :]
            while data[0]:
                blocks, data = blocks + data[1 : 1 + data[0]], data[1 + data[0] :]
            assert (blocks.decode(), data) == (comment, b"\0;")
        else:
            with av.open(str(tmp_path / f"with{ending}")) as movie:
                found = {name.lower(): text for name, text in movie.metadata.items()}
            assert found["comment"] == comment
        for word in (str(tmp_path), "creation_time", "comment"):
            assert word.encode() not in plain

    def test_a_codec_that_is_not_there(self, tmp_path, monkeypatch):
        kinds = encoding.FORMATS | {".webm": encoding.Format("webm", "libnone", {})}
        monkeypatch.setattr(encoding, "FORMATS", kinds)
        with pytest.raises(UserError, match=".webm needs libnone, which this PyAV lacks; choose"):
            write_video(tmp_path / "a.webm", self.frames(), 30)
        assert not list(tmp_path.iterdir())


class TestCheckMovie:
    @pytest.mark.parametrize(
        ("height", "width", "levels", "settings", "words"),
        [
            (64, 64, 4, {}, None),
            (64, 64, 500, {"seconds_per_level": 60.0}, None),
            (64, 2048, 4, {"size": 512}, None),
            (64, 2112, 4, {"size": 512}, "would be 512 x 16896, and its encoder takes up to 16384"),
            (2112, 64, 4, {"size": 512}, "would be 16896 x 512"),
            (64, 64, 4, {"seconds_per_level": 1e300}, "up to 1000000 frames"),
            (64, 64, 4, {"seconds_per_level": 12000.0}, "up to 1000000 frames"),
            (64, 64, 4, {"seconds_per_level": 6000.0, "direction": "both"}, "up to 1000000 frames"),
            (64, 64, 1, {"seconds_per_level": 1e300}, None),
        ],
    )
    def test_what_the_encoder_cannot_make(self, height, width, levels, settings, words):
        movie = MovieSettings(**settings)
        if words is None:
            check_movie(Geometry(levels, 2, height, width), movie)
            return
        with pytest.raises(UserError, match=words):
            check_movie(Geometry(levels, 2, height, width), movie)

    @pytest.mark.parametrize("side", [16384, 16386])
    def test_the_limit_is_the_encoders(self, tmp_path, side):
        frame = np.zeros((2, side, 3), np.uint8)
        if side <= 16384:
            write_video(tmp_path / "wide.mp4", [frame], 5)
            return
        with pytest.raises(UserError, match="up to 16384 pixels a side"):
            write_video(tmp_path / "wide.mp4", [frame], 5)
        assert not list(tmp_path.iterdir())


class TestNames:
    @pytest.mark.parametrize("name", ["12:30/z.mp4", "pipe:1.mov", "http:x.mp4", "a%d.MP4"])
    def test_a_name_is_a_name_and_no_protocol(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        frames = [np.full((16, 16, 3), shade, np.uint8) for shade in (0, 90, 180)]
        for _ in range(2):
            write_video(name, frames, 5)
            with av.open(f"file:{name}") as movie:
                assert len(list(movie.decode(video=0))) == 3
                assert name[-3:].lower() in movie.format.name
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1

    @pytest.mark.parametrize("name", ["z.avi", "gif", "z", ".mp4", "stack.npz", "z.mp4.txt"])
    def test_other_endings_are_refused(self, tmp_path, name):
        with pytest.raises(UserError, match="to end in .mp4 or .mov or .webm or .gif"):
            write_video(tmp_path / name, [np.zeros((16, 16, 3), np.uint8)], 5)
        assert not list(tmp_path.iterdir())
