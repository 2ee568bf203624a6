"""Pictures of unusual kinds: seen as a viewer shows them, or refused in one sentence."""

import struct
import zlib

import numpy as np
import pytest
import torch
from conftest import says
from PIL import Image

from clipnotes.backbone.pictures import ImageReader, open_image
from clipnotes.data import encode_task, load_task
from clipnotes.errors import ClipnotesError

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)  # all of black to white


def close(image, expected, most=1):
    assert image.mode == "RGB"
    grey = np.asarray(image).astype(int)
    assert np.abs(grey - np.asarray(expected).astype(int)[..., None]).max() <= most


@pytest.mark.parametrize("array", [RAMP, RAMP.astype(np.uint16) * 257, RAMP / 255, (RAMP / 255).astype(np.float32),
                                   (RAMP / 255).astype(np.float16)])
def test_arrays_of_every_range_show_the_same_picture(array):
    close(open_image(array), RAMP)
    close(open_image(np.stack([array] * 3, -1)), RAMP)


@pytest.mark.parametrize("name, pixels", [
    ("16.png", RAMP.astype(np.uint16) * 257), ("16.tif", RAMP.astype(np.uint16) * 257), ("32.tif", RAMP.astype(np.int32)),
    ("32.tif", RAMP.astype(np.int32) * 257), ("32.tif", (RAMP / 255 * (2**31 - 1)).astype(np.int32)),
    ("float.tif", (RAMP / 255).astype(np.float32)), ("float.tif", RAMP.astype(np.float32)), ("8.png", RAMP),
])  # fmt: skip
def test_grey_files_of_more_bits_are_scaled(name, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / name)
    close(open_image(tmp_path / name), RAMP)


@pytest.mark.parametrize("white, factor, shown", [(65_535, 257, RAMP), (4095, 16, RAMP), (65_535, 1, RAMP // 255)])
def test_a_pgm_says_its_white_itself(white, factor, shown, tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n8 8\n%d\n" % white + (RAMP.astype(np.uint16) * factor).astype(">u2").tobytes())
    close(open_image(tmp_path / "a.pgm"), shown)


def test_grey_values_below_black_are_refused(tmp_path):
    Image.fromarray(RAMP.astype(np.float32) - 9).save(tmp_path / "a.tif")
    for image in (tmp_path / "a.tif", Image.fromarray(RAMP.astype(np.float32) - 9)):
        with says(r"^Image .* cannot be read \(it has grey values from -9.0 to 246.0, but they must be 0 or more\)"):
            open_image(image)


def test_grey_pictures_of_more_bits_in_arrays_files_and_memory_have_the_same_features(tmp_path, clip):
    deep = RAMP.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.png")
    images = [RAMP, deep, RAMP.astype(np.float32) / 255, Image.fromarray(deep), Image.fromarray(RAMP.astype(np.int32) * 257),
              tmp_path / "a.png"]
    features = clip.encode_images(images, progress=False)
    assert (features - features[0]).abs().max() < 1e-5
    assert torch.allclose(clip.encode_images(np.stack([deep, deep]), progress=False), features[:2], atol=1e-5)


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "WEBP", "GIF"])
def test_a_picture_under_another_ending_is_read_or_refused_by_name(kind, tmp_path):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow was built without {kind}")
    Image.new("RGB", (16, 16), (10, 200, 10)).save(tmp_path / "a", kind)
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content)
    red, green, blue = np.asarray(open_image(tmp_path / "a.jpg"))[8, 8]
    assert green > 150 > 90 > max(red, blue)
    for cut in (30, len(content) // 2, len(content) - 30):
        (tmp_path / "a.jpg").write_bytes(content[:cut] + bytes(len(content) - cut))
        try:
            open_image(tmp_path / "a.jpg")  # some kinds fill in what is missing
        except ClipnotesError as error:
            assert str(error).startswith(f"Image {tmp_path / 'a.jpg'} cannot be read (")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode, tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)  # black and transparent
    pixels[:4] = 200, 200, 200, 255
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(np.repeat([[0], [1]], 4, 0).repeat(8, 1).astype(np.uint8), "P")
        image.putpalette([200, 200, 200, 0, 0, 0])
        image.info["transparency"] = 1
    image.convert(mode).save(tmp_path / "a.png") if mode != "P" else image.save(tmp_path / "a.png", transparency=1)
    shown = np.asarray(open_image(tmp_path / "a.png"))
    assert (shown[:4] == 200).all() and (shown[4:] == 255).all()
    assert (np.asarray(open_image(tmp_path / "a.png", as_shown=False))[4:] == 0).all()  # as CLIP's own code sees it
    if mode == "RGBA":
        assert (np.asarray(open_image(pixels)) == shown).all()


def test_a_photograph_stands_upright(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(open_image(tmp_path / "a.png"))
    assert upright.shape == (16, 8, 3) and (upright[:8] == 255).all() and (upright[8:] == 0).all()
    assert open_image(tmp_path / "a.png", as_shown=False).size == (16, 8)


def test_ink_and_animations(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    red = np.asarray(open_image(tmp_path / "ink.jpg"))[0, 0]
    assert red[0] > 200 and red[1] < 60 and red[2] < 60
    Image.new("L", (8, 8), 255).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (8, 8), 0)] * 2)
    assert (np.asarray(open_image(tmp_path / "a.gif")) == 255).all()  # the first picture


def test_a_decompression_bomb_is_one_sentence(tmp_path, clip):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))  # nothing but a header
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with says(r"^Image .*bomb.png cannot be read \(Image size \(3600000000 pixels\) exceeds limit .*\); fetch it again"):
        clip.encode_images([tmp_path / "bomb.png"])


@pytest.mark.parametrize("images, message", [
    (RAMP, r"Images have shape \[8, 8\]; give \[N, H, W, 3\]"), (np.zeros((8, 8, 3), np.uint8), r"Images have shape \[8, 8, 3"),
    ("a.jpg", "images = 'a.jpg' is one image; give a list"), (torch.zeros(2, 3, 8, 8), r"Images are a tensor \[2, 3, 8, 8\]"),
    (Image.new("RGB", (8, 8)), "images = .* is one image"), (7, "images = 7 are no list"), ([7], "Image 7 is of type int"),
    ([np.zeros(8, np.uint8)], r"Image array has shape \[8\]"), ([RAMP / 100], "values from 0 to 2.55; floats must lie between"),
    ([RAMP.astype(np.int64)], "Image array of type int64; give uint8"), ([np.full((8, 8), np.nan)], "values from nan to nan"),
])  # fmt: skip
def test_what_is_no_list_of_images(images, message, clip):
    with says(f"^{message}|^Image array.*{message}"):
        clip.encode_images(images, progress=False)


@pytest.mark.parametrize("texts, message", [("hello", "texts = 'hello' does not fit; give"), ([7], r"texts\[0\] = 7 is")])
def test_what_is_no_list_of_texts(texts, message, clip):
    with says(f"^{message}"):
        clip.encode_texts(texts)


@pytest.mark.parametrize("views", [0, -1, 1.5, 10**12])
def test_numbers_of_views(views, clip):
    task = load_task("digits", shots=1)
    with says("^views = .*; it must be a whole number from 1 to 1000.$"):
        encode_task(clip, task, views=views)
    with says("^n_views = .*; it must be a whole number from 1 to 1000.$"):
        clip.encode_views(task.train.images, views)


def test_features_as_clip_sees_them_are_others(clip, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8, 4), i, np.uint8)).save(tmp_path / name / f"{i}.png")
    task = load_task(f"folder:{tmp_path}")
    seen, plain = (encode_task(clip, task, progress=False, as_shown=shown).test.x for shown in (True, False))
    assert not torch.equal(seen, plain)
    assert torch.equal(plain, clip.encode_images(task.test.images, progress=False, as_shown=False))
    assert len(ImageReader(task.test.images, clip.preprocess)) == 2
