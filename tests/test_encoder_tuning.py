"""Fine-tuning whole encoders: what is trained and what stays, exactness of the tower, files, kill and resume, bad input."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import says
from PIL import Image
from sgd_options import sgd_options
from torch import nn

from clipnotes.backbone import load_clip
from clipnotes.methods.encoder_tuning import (
    ImageClassifier,
    ImageEncoderFineTuning,
    TextEncoderTuning,
    image_tower,
    imagenet_resnet50,
    starting_network,
)
from clipnotes.methods.losses import loss_function
from clipnotes.methods.sgd import SGDConfig, batch_rows, learning_rate

NAMES = ["red_circle", "square", "blue star"]


@pytest.fixture(scope="module")
def data(clip):
    """Features near their class's text, and labels."""
    g, y = torch.Generator().manual_seed(0), torch.arange(12) % 3
    text = clip.classifier(NAMES, ["a photo of a {}."])
    return 5 * (text[y] + 0.05 * torch.randn(12, clip.dim, generator=g)), y


# --- the text tower -----------------------------------------------------------------------------------------------


def test_untrained_tower_is_zero_shot(clip, data):
    x, y = data
    tuning = TextEncoderTuning(clip, NAMES, sgd=SGDConfig(epochs=1, warmup_lr=0)).fit(x, y)
    text = clip.classifier(NAMES, ["a photo of a {}."])
    assert torch.allclose(tuning.text_features(), text, atol=1e-5)
    assert torch.allclose(tuning.logits(x), clip.logit_scale * F.normalize(x, dim=1) @ text.T, atol=1e-3)


@pytest.mark.parametrize("loss", ["ce", "gce"])
def test_tuning_against_plain_encoding(clip, data, loss):
    """The same training on a copy of the whole CLIP with open_clip's own encode_text, at full context length."""
    x, y = data
    recipe = {"epochs": 3, "batch_size": 4, "lr": 0.01}
    tuning = TextEncoderTuning(clip, NAMES, "a {}.", loss, **sgd_options(**recipe)).fit(x, y)
    model, unit = copy.deepcopy(clip.model), F.normalize(x, dim=1)
    tokens = clip.tokenizer(["a red circle.", "a square.", "a blue star."])
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual") and name != "logit_scale"]
    optimizer = torch.optim.SGD([p.requires_grad_() for p in parameters], 1, momentum=0.9, weight_decay=5e-4)
    for epoch, batches in enumerate(batch_rows(12, 4, 3, seed=1), 1):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, 3, 0.01)
        for rows in batches:
            value = loss_function(loss)(clip.logit_scale * unit[rows] @ model.encode_text(tokens, normalize=True).T, y[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    with torch.no_grad():
        assert torch.allclose(tuning.text_features(), model.encode_text(tokens, normalize=True), atol=1e-4)
    trained = dict(tuning.tower_.named_parameters())
    assert len(trained) == len(parameters)
    for name, parameter in trained.items():
        assert torch.allclose(parameter, model.get_parameter(name), atol=1e-4), name
        assert not torch.equal(parameter, clip.model.get_parameter(name)), name


def test_tuning_learns_and_leaves_the_clip_alone(clip, data):
    x, y = data
    before = copy.deepcopy(clip.model.state_dict())
    y, seen = (y + 1) % 3, []  # class names that do not fit: there is something to learn
    tuning = TextEncoderTuning(clip, NAMES, sgd=SGDConfig(epochs=30, lr=0.02))
    tuning.fit(x, y, callback=lambda epoch, t: seen.append((epoch, t.score(x, y))))
    assert [epoch for epoch, _ in seen] == list(range(1, 31)) and seen[0][1] == 0 and seen[-1][1] == 1
    assert len(tuning.losses_) == 30 and tuning.losses_[-1] < tuning.losses_[0] / 5
    assert all(torch.equal(before[k], v) for k, v in clip.model.state_dict().items())
    assert not any(p.requires_grad for p in clip.model.parameters())
    again = TextEncoderTuning(clip, NAMES, sgd=SGDConfig(epochs=30, lr=0.02)).fit(torch.stack([x, x]), y)
    assert torch.equal(again.text_features(), tuning.text_features())


def test_text_tuning_bad_input(clip, data):
    x, y = data
    with says("^Label 2 in y is out of range; labels must be 0 to 1, as there are 2 classes.$"):
        TextEncoderTuning(clip, NAMES[:2]).fit(x, y)
    with says("^x has features of size d = 9, but d = 128 is needed; both must come from one model.$"):
        TextEncoderTuning(clip, NAMES).fit(x[:, :9], y)
    with says("^Template 'a photo' has no place for the class name"):
        TextEncoderTuning(clip, NAMES, "a photo").fit(x, y)
    with says("^This TextEncoderTuning has learnt nothing yet; call fit first.$"):
        TextEncoderTuning(clip, NAMES).logits(x)
    with says("^loss = 'nll' is unknown"):
        TextEncoderTuning(clip, NAMES, loss="nll").fit(x, y)
    with says("^template = 3 is no text; give one.$"):
        TextEncoderTuning(clip, NAMES, template=3).fit(x, y)
    with says("^(The loss|What is learnt) became .* in epoch [0-9]+ with lr = 1000; lower lr.$"):
        TextEncoderTuning(clip, NAMES, sgd=SGDConfig(lr=1000, weight_decay=1000)).fit(x, y)


# --- image encoders -----------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Two channels of mean colours behind a batch norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1)

    def forward(self, batch):
        return F.relu(self.mix(self.norm(batch))).mean((2, 3))


def tiny_network(outputs=7):
    torch.manual_seed(0)
    return ImageClassifier(Tiny(), 8, outputs).eval()


def to_tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def pictures():
    """Noise with more red, green or blue in it, and which."""
    y = np.arange(18) % 3
    images = np.random.default_rng(0).integers(0, 90, (18, 8, 8, 3), dtype=np.uint8)
    images[np.arange(18), :, :, y] += 120
    return images, y


@pytest.mark.parametrize("head", ["new", "kept"])
def test_fine_tuning_learns_on_a_copy(pictures, head):
    (images, y), network = pictures, tiny_network()
    before, seen = copy.deepcopy(network.state_dict()), []
    options = {"epochs": 12, "batch_size": 6, "lr": 0.1}
    tuning = ImageEncoderFineTuning(network, to_tensor, head, **sgd_options(**options))
    tuning.fit(images, y, callback=lambda epoch, t: seen.append((epoch, t.score(images, y))))
    assert seen[-1] == (12, 1.0) and tuning.losses_[-1] < 0.3
    assert tuning.logits(images).shape == (18, 3) and tuning.network_.head.out_features == (3 if head == "new" else 7)
    assert torch.allclose(tuning.logits(images[4:5]), tuning.logits(images)[4:5], atol=1e-5)  # batch norms at rest
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items()) and not network.training
    after = tuning.network_.state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in before if not k.startswith("head"))  # statistics, too
    again = ImageEncoderFineTuning(network, to_tensor, head, **sgd_options(**options)).fit(list(images), y)
    assert torch.equal(again.logits(images), tuning.logits(images))  # the callback changed nothing


def test_train_transform_is_drawn_anew_and_seeded(pictures):
    images, y = pictures
    drawn = []

    def transform(image):
        drawn.append(torch.rand(()).item())
        return to_tensor(image) * drawn[-1]

    options = {"epochs": 2, "batch_size": 6, "train_transform": transform}
    first = ImageEncoderFineTuning(tiny_network(), to_tensor, **sgd_options(**options)).fit(images, y)
    assert len(set(drawn)) == 2 * 18
    torch.manual_seed(99)
    again = ImageEncoderFineTuning(tiny_network(), to_tensor, **sgd_options(**options)).fit(images, y)
    assert drawn[:36] == drawn[36:] and torch.equal(again.logits(images), first.logits(images))


def test_image_tower_of_a_clip(clip):
    network, preprocess = image_tower(clip)
    images = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), dtype=np.uint8)
    with torch.no_grad():
        features = network.visual(torch.stack([preprocess(Image.fromarray(image)) for image in images]))
    assert torch.allclose(features, F.layer_norm(clip.encode_images(images), [clip.dim]), atol=1e-4)
    before = clip.encode_images(images)
    tuning = ImageEncoderFineTuning(network, preprocess, sgd=SGDConfig(epochs=2)).fit(images, [0, 1])
    assert tuning.logits(images).shape == (2, 2) and torch.equal(clip.encode_images(images), before)


def test_imagenet_weights_come_from_a_file(tmp_path, monkeypatch):
    class Net(nn.Module):  # in place of 100 MB
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 9)

    monkeypatch.setattr("torchvision.models.resnet50", Net)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with says("^The ImageNet weights of ResNet-50 are not at .*resnet50-0676ba61.pth; get them from https://download"):
        imagenet_resnet50()
    path = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    torch.save({"fc.bias": torch.zeros(3)}, path)
    with says("resnet50-0676ba61.pth does not hold weights of ResNet-50"):
        imagenet_resnet50()
    state = Net().state_dict()
    torch.save(state, path)
    network, preprocess = imagenet_resnet50()
    assert torch.equal(network.fc.weight, state["fc.weight"]) and preprocess.crop_size == [224]
    tuning = ImageEncoderFineTuning(network, preprocess)
    tuning.n_classes_ = 5
    assert tuning.start().fc.out_features == 5


def test_image_tuning_bad_input(pictures):
    images, y = pictures
    with says("^head = 'old' is unknown; choose 'new' or 'kept'.$"):
        ImageEncoderFineTuning(tiny_network(), to_tensor, "old").fit(images, y)
    with says('^head="kept" has 2 outputs for 3 classes; use head="new".$'):
        ImageEncoderFineTuning(tiny_network(2), to_tensor, "kept").fit(images, y)
    with says("^Tiny has no linear layer called head or fc; give a network with one.$"):
        ImageEncoderFineTuning(Tiny(), to_tensor).fit(images, y)
    with says(r"^y has shape \[17\], but there are 18 images; give one label each.$"):
        ImageEncoderFineTuning(tiny_network(), to_tensor).fit(images, y[1:])
    with says("^Image nowhere.jpg does not exist"):
        ImageEncoderFineTuning(tiny_network(), to_tensor).fit(["nowhere.jpg"], [0])
    with says("^This ImageEncoderFineTuning has learnt nothing yet; call fit first.$"):
        ImageEncoderFineTuning(tiny_network(), to_tensor).logits(images)


def test_fine_tuning_beside_a_pocket_model_starts_from_labels_not_captions():
    network, preprocess = starting_network("pocket-vit")
    captions = load_clip("pocket-vit").model.visual.state_dict()
    labels = network.visual[0].state_dict()
    assert labels.keys() == captions.keys() and not torch.equal(labels["proj"], captions["proj"])
    assert preprocess(Image.new("RGB", (40, 40))).shape == (3, 40, 40)
