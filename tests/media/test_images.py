import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms

from pot_jax.errors import UserError
from pot_jax.media import images as media
from pot_jax.media.pixels import from_bytes, to_bytes
from pot_jax.zoom import operators
from pot_jax.zoom.geometry import Geometry


def window(picture, geometry, level):
    (top, left), (height, width) = geometry.corners[level], geometry.window_shape
    return picture[top : top + height, left : left + width]


def agreeing(geometry, seed=0):
    stack = np.random.default_rng(seed).uniform(-1, 1, (geometry.levels, *shape(geometry)))
    return np.asarray(operators.render(stack.astype(np.float32), geometry))


def shape(geometry):
    return geometry.height, geometry.width, 3


def overlap_psnr(pictures, geometry):
    shrunk = operators.downsample(pictures[1:].astype(np.float64), geometry.zoom_factor)
    seen = np.stack([window(p, geometry, i) for i, p in enumerate(pictures[:-1])])
    return 10 * np.log10(255**2 / ((shrunk - seen) ** 2).mean((1, 2, 3)))


class TestZoomToBytes:
    GEOMETRIES = [
        Geometry(8, 2, 64, 64),
        Geometry(64, 2, 32, 32),
        Geometry(5, 2, 16, 24, ((4, -6), (-1, 3), (0, 0), (-4, 6))),
        Geometry(4, 4, 64, 64),
        Geometry(3, 10, 60, 80),
    ]

    @pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
    def test_shrinking_a_picture_and_rounding_gives_its_parent(self, geometry):
        pictures = media.zoom_to_bytes(agreeing(geometry), geometry)
        for level in range(geometry.levels - 1):
            child = operators.downsample(
                pictures[level + 1].astype(np.float64), geometry.zoom_factor
            )
            error = np.abs(child - window(pictures[level], geometry, level))
            assert error.max() <= 0.501  # 0.5, and the thousandth that decides ties
        assert overlap_psnr(pictures, geometry).min() > 57.5

    @pytest.mark.parametrize(
        "geometry",
        [
            Geometry(6, 2, 64, 64, loop=True),
            Geometry(2, 2, 32, 32, loop=True),
            Geometry(3, 3, 24, 36, ((8, -6), (1, 2), (0, 3)), loop=True),
        ],
        ids=str,
    )
    def test_in_a_loop_the_deepest_picture_is_a_parent_too(self, geometry):
        pictures = media.zoom_to_bytes(agreeing(geometry), geometry).astype(np.float64)
        for level in range(geometry.levels):
            child = pictures[(level + 1) % geometry.levels]
            child = operators.downsample(child, geometry.zoom_factor)
            assert np.abs(child - window(pictures[level], geometry, level)).max() <= 0.501

    def test_kernel_of_the_render(self):
        geometry = Geometry(3, 4, 32, 32)
        raw = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
        images = np.asarray(operators.render(raw, geometry, kernel="gaussian"))
        pictures = media.zoom_to_bytes(images, geometry, kernel="gaussian")
        for level in range(2):
            child = operators.downsample(pictures[level + 1].astype(np.float64), 4, "gaussian")
            assert np.abs(child - window(pictures[level], geometry, level)).max() <= 0.501

    def test_fidelity_does_not_fall_with_depth(self):
        geometry = Geometry(64, 2, 32, 32)
        images = agreeing(geometry)
        error = media.zoom_to_bytes(images, geometry) - (images + 1) * 127.5
        # Rounding alone gives 1/12. D of the child's error adds at most a third of it at p = 2.
        assert (error**2).mean((1, 2, 3)).max() < 1.1 * 4 / 3 / 12
        assert np.abs(error).max() <= 1.0

    def test_texture_that_rounding_level_by_level_breaks(self):
        # Cells of 0.45, 0.45, 0.45, 0.75 bytes: alone 0 0 0 1, but their mean 0.525 becomes 1.
        geometry = Geometry(2, 2, 64, 64)
        texture = np.full((2, 64, 64, 3), 100.45, np.float32)
        texture[:, ::2, ::2] += 0.30
        images = np.asarray(operators.render(texture / 127.5 - 1, geometry))
        alone = overlap_psnr(to_bytes(images), geometry)
        together = overlap_psnr(media.zoom_to_bytes(images, geometry), geometry)
        assert alone.min() < 51
        assert together.min() > 60

    def test_disagreement_is_kept(self):
        geometry = Geometry(8, 2, 64, 64)
        images = np.random.default_rng(0).uniform(-1, 1, (8, 64, 64, 3)).astype(np.float32)
        pictures = media.zoom_to_bytes(images, geometry)
        assert np.abs(pictures - (images + 1) * 127.5).max() <= 1.0

    def test_one_level_is_plain_rounding(self):
        image = np.random.default_rng(0).uniform(-2, 2, (1, 6, 6, 3))
        np.testing.assert_array_equal(
            media.zoom_to_bytes(image, Geometry(1, 3, 6, 6)),
            to_bytes(image),
        )

    def test_shape_must_be_the_geometrys(self):
        with pytest.raises(UserError, match="expected all levels"):
            media.zoom_to_bytes(np.zeros((3, 8, 8, 3)), Geometry(2, 2, 8, 8))

    def test_nan_is_refused(self):
        images = np.zeros((2, 8, 8, 3))
        images[0, 0, 0] = np.nan
        with pytest.raises(ValueError, match="3 of 384 picture values are NaN"):
            media.zoom_to_bytes(images, Geometry(2, 2, 8, 8))


class TestFiles:
    def test_png_is_lossless(self, tmp_path):
        picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
        media.save_png(tmp_path / "levels" / "a.png", picture)
        np.testing.assert_array_equal(media.read_picture(tmp_path / "levels" / "a.png"), picture)
        assert os.listdir(tmp_path / "levels") == ["a.png"]


class TestPhotograph:
    @staticmethod
    def read(tmp_path, image, height, width, name="photo.png", **options):
        image.save(tmp_path / name, **options)
        return media.read_photograph(tmp_path / name, height, width)

    @pytest.mark.parametrize(
        ("size", "inside"),
        [
            ((30, 10), np.s_[6:13, :]),
            ((10, 30), np.s_[:, 6:13]),
            ((400, 1), np.s_[9:10, :]),
            ((9, 9), np.s_[:, :]),
            ((24, 20), np.s_[1:18, :]),
        ],
    )
    def test_padding_keeps_all_of_it_and_is_not_known(self, tmp_path, size, inside):
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        picture[0] = picture[-1] = picture[:, 0] = picture[:, -1] = 255  # its very edge is seen
        Image.fromarray(picture).save(tmp_path / "photo.png")
        photo = media.read_photograph(tmp_path / "photo.png", 20, 20, "pad")
        known = np.zeros((20, 20), bool)
        known[inside] = True
        np.testing.assert_array_equal(~np.isnan(photo), known[..., None].repeat(3, -1))
        seen = photo[inside]
        edges = [seen[0], seen[-1], seen[:, 0], seen[:, -1]]
        assert min(edge.mean() for edge in edges) > -0.5
        assert photo.dtype == np.float32

    def test_same_size_is_untouched(self, tmp_path):
        picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
        photo = self.read(tmp_path, Image.fromarray(picture), 6, 8)
        assert photo.dtype == np.float32
        np.testing.assert_array_equal(to_bytes(photo), picture)

    @pytest.mark.parametrize("size", [(30, 10), (10, 30)])
    def test_crop_is_centred(self, tmp_path, size):
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        top, left = (size[1] - 10) // 2, (size[0] - 10) // 2
        picture[top : top + 10, left : left + 10] = 255
        photo = self.read(tmp_path, Image.fromarray(picture), 20, 20)
        assert photo.shape == (20, 20, 3)
        assert photo[3:-3, 3:-3].min() > 0.9

    @pytest.mark.parametrize("sizes", [(29, 39, 27, 34), (7, 8, 25, 1)])
    def test_any_size_is_cropped_to_any_other(self, tmp_path, sizes):
        width, height, *shape = sizes
        picture = Image.new("RGB", (width, height))
        assert self.read(tmp_path, picture, *shape[::-1]).shape == (*shape[::-1], 3)

    def test_shrinking_does_not_alias(self, tmp_path):
        stripes = np.zeros((90, 90, 3), np.uint8)
        stripes[:, ::3] = 255
        photo = self.read(tmp_path, Image.fromarray(stripes), 20, 20)
        inner = photo[2:-2, 2:-2]
        assert inner.std() < 0.02
        assert abs(inner.mean() + 1 / 3) < 0.02

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA", "HSV"])
    def test_modes(self, tmp_path, mode):
        image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
        name = {"CMYK": "a.tif", "YCbCr": "a.tif", "HSV": "a.tif"}.get(mode, "a.png")
        if mode == "HSV":
            image = image.convert("RGB")
        photo = self.read(tmp_path, image, 4, 4, name)
        assert photo.shape == (4, 4, 3)
        assert photo.min() > 0.95

    def test_sixteen_bits(self, tmp_path):
        grey = Image.fromarray(np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16))
        grey.save(tmp_path / "a.png")
        np.testing.assert_array_equal(
            media.read_picture(tmp_path / "a.png")[..., 1], [[0, 100], [200, 255]]
        )

    def test_transparency_lies_on_white(self, tmp_path):
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
        assert self.read(tmp_path, image, 4, 4).min() == 1.0
        palette = Image.new("P", (4, 4), 0)
        assert self.read(tmp_path, palette, 4, 4, transparency=0).min() == 1.0

    def test_exif_orientation(self, tmp_path):
        picture = np.zeros((8, 16, 3), np.uint8)
        picture[:, :8] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
        photo = self.read(tmp_path, Image.fromarray(picture), 16, 8, exif=exif)
        assert photo[:7].min() == 1
        assert photo[9:].max() == -1

    def test_colour_profile(self, tmp_path):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        colour = np.array([200, 100, 50], np.uint8)
        image = Image.new("RGB", (4, 4), tuple(colour.tolist()))
        photo = self.read(tmp_path, image, 4, 4, icc_profile=profile)
        np.testing.assert_allclose(photo[0, 0], from_bytes(colour), atol=1.01 / 127)
        photo = self.read(tmp_path, image, 4, 4, icc_profile=b"broken")
        np.testing.assert_array_equal(photo[0, 0], from_bytes(colour))

    def test_errors_are_one_line(self, tmp_path):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
            tmp_path / "whole.png"
        )
        whole = (tmp_path / "whole.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "page.png").write_text("<html>404</html>")
        (tmp_path / "empty.png").write_bytes(b"")
        Image.new("F", (4, 4)).save(tmp_path / "float.tif")
        for name, reason in {
            "absent.png": "no picture at",
            "cut.png": "may be truncated",
            "page.png": "not a picture of a known kind",
            "empty.png": "not a picture of a known kind",
            "float.tif": "8 or 16 bits",
            "": "is a folder",
        }.items():
            with pytest.raises(UserError, match=reason) as caught:
                media.read_photograph(tmp_path / name, 8, 8)
            assert "\n" not in str(caught.value)

    def test_a_bomb_is_refused(self, tmp_path, monkeypatch):
        Image.new("L", (64, 64)).save(tmp_path / "big.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(UserError, match="too large"):
            media.read_picture(tmp_path / "big.png")


class TestPicturesAsPeopleHaveThem:
    """The same picture in every form that a photograph, an image or a mask may come in."""

    grey = np.array([[0, 60, 128], [200, 255, 127]], np.uint8)
    rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)

    @pytest.mark.parametrize(
        "form",
        [
            lambda rgb, path: rgb,
            lambda rgb, path: jnp.asarray(rgb),
            lambda rgb, path: from_bytes(rgb),
            lambda rgb, path: from_bytes(rgb).astype(np.float64),
            lambda rgb, path: from_bytes(rgb).tolist(),
            lambda rgb, path: Image.fromarray(rgb),
            lambda rgb, path: path,
            lambda rgb, path: str(path),
            lambda rgb, path: np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1),
        ],
        ids=["uint8", "jax", "float", "double", "lists", "Pillow", "Path", "path", "opacity"],
    )
    def test_an_image(self, tmp_path, form):
        media.save_png(tmp_path / "a.png", self.rgb)
        found = media.read_images(form(self.rgb, tmp_path / "a.png"), "image")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, from_bytes(self.rgb), atol=1e-6)

    def test_grey_and_batches(self):
        grey = from_bytes(np.repeat(self.grey[..., None], 3, axis=-1))
        np.testing.assert_array_equal(media.read_images(self.grey, "image"), grey)
        np.testing.assert_array_equal(media.read_images(self.grey[..., None], "image"), grey)
        np.testing.assert_array_equal(media.read_images([self.grey] * 2, "image"), [grey] * 2)
        assert media.read_images(np.stack([self.rgb] * 2), "image").shape == (2, 2, 3, 3)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (rgb.astype(np.float32), "from 0 to 255"),
            (from_bytes(rgb) * np.nan, "from nan to nan"),
            (rgb.astype(np.int64), "expected bytes"),
            (np.zeros((3, 4, 5), np.uint8), r"got \(3, 4, 5\)"),
            ([rgb, rgb[:1]], "pictures of one size"),
            ([[1, 2], [3]], "expected"),
            ([], r"got \(0,\)"),
            (None, "a path, a Pillow image or an array, got None"),
            ({"a": 1}, "a path, a Pillow image or an array"),
            (3.5, r"got \(\)"),
            (np.array(["a"]), "a path, a Pillow image or an array"),
            ("absent.png", "no picture at"),
            ("a\0b.png", "zero byte"),
        ],
    )
    def test_no_image(self, given, message):
        with pytest.raises(UserError, match=message) as caught:
            media.read_images(given, "image")
        assert "\n" not in str(caught.value)

    def test_floats_from_zero_to_one_are_questioned(self, caplog):
        media.read_images(np.full((2, 2, 3), 0.5), "photograph")
        assert "photograph: floats from 0.5 to 0.5; -1 is black here" in caplog.text

    @pytest.mark.parametrize(
        "given",
        [
            grey,
            grey >= 128,
            (grey >= 128).astype(np.uint8),
            (grey >= 128).astype(np.int64),
            grey.astype(np.int32),
            grey / np.float32(255),
            (grey >= 128).tolist(),
            Image.fromarray(grey),
            Image.fromarray(np.repeat(grey[..., None], 3, axis=-1)),
            np.repeat(grey[..., None], 3, axis=-1),
            grey[..., None],
            (grey >= 128)[..., None],
        ],
        ids=[
            *("uint8", "bool", "ones", "int64", "int32", "float", "lists", "Pillow", "colour"),
            *("colours", "channel", "bool channel"),
        ],
    )
    def test_a_mask(self, given):
        np.testing.assert_array_equal(media.read_mask(given), self.grey >= 128)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (np.full((2, 2), np.nan), "from nan to nan"),
            (np.full((2, 2), 60.0), "from 60 to 60"),
            (np.full((2, 2), -1), "expected booleans"),
            (np.uint8([[0, 2]]), "bytes of which 128 and more are painted, got '2 at the most'"),
            (np.array([[0, 100]]), "128 and more are painted, got '100 at the most'"),
            ([np.zeros((2, 2)), np.zeros((2, 3))], "mask: expected pictures of one size"),
            (["absent.png", "none.png"], "no picture at absent.png"),
            (np.zeros((2, 2, 2, 2)), "expected"),
            ("absent.png", "no picture at"),
            (None, "a path, a Pillow image or an array"),
        ],
    )
    def test_no_mask(self, given, message):
        with pytest.raises(UserError, match=message):
            media.read_mask(given)

    def test_a_list_of_masks(self, tmp_path):
        path = tmp_path / "mask.png"
        Image.fromarray(self.grey).save(path)
        found = media.read_mask([path, self.grey >= 128, Image.fromarray(self.grey)])
        np.testing.assert_array_equal(found, np.stack([self.grey >= 128] * 3))

    def test_a_photograph_of_bytes_is_fitted_and_floats_are_not(self):
        assert media.read_photograph(self.rgb, 4, 4).shape == (4, 4, 3)
        assert media.read_photograph(Image.fromarray(self.rgb), 4, 4).shape == (4, 4, 3)
        exact = from_bytes(self.rgb)
        np.testing.assert_array_equal(media.read_photograph(exact, 2, 3), exact)
        with pytest.raises(UserError, match=r"expected pixels of \(4, 4, 3\), got \(2, 3, 3\)"):
            media.read_photograph(exact, 4, 4)


class TestContactSheet:
    @pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (6, 3), (8, 4), (12, 4)])
    def test_layout(self, count, columns):
        pictures = np.full((count, 40, 40, 3), 200, np.uint8)
        page = media.contact_sheet(pictures)
        rows = count // columns
        assert page.shape == (rows * 42 + 2, columns * 42 + 2, 3)
        assert (page == 200).sum() == pictures.size

    @pytest.mark.parametrize("count", range(1, 70))
    def test_never_an_empty_row_and_few_holes(self, count):
        page = media.contact_sheet(np.zeros((count, 20, 20, 3), np.uint8))
        rows, columns = (page.shape[0] - 2) // 22, (page.shape[1] - 2) // 22
        assert rows * columns >= count > (rows - 1) * columns
        assert rows * columns - count <= max(2, count // 8)

    def test_order(self):
        pictures = np.stack([np.full((20, 40, 3), i, np.uint8) for i in (50, 100, 150, 200)])
        page = media.contact_sheet(pictures)
        centres = [page[2 + 10, 2 + 20, 0], page[2 + 10, -2 - 20, 0], page[-2 - 10, 2 + 20, 0]]
        assert centres[0] == 50
        assert centres[-1] in (100, 150)
        assert page.shape[1] % 42 == 2
