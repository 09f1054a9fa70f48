"""The report's page: what its HTML says, and how it behaves in Chromium."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.report.conftest import make_gallery, make_record
from tfadv.report import page, summary
from tfadv.report.data import ReportData

VOID = {"meta", "br", "img", "link", "input", "path", "use"}


class Parser(html.parser.HTMLParser):
    """Collects ids, links and text, and checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.urls, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes and "svg" not in self.open else []
        self.urls += [v for k, v in attributes.items() if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def written(full_data, tmp_path_factory):
    """The page of all that a report may contain."""
    folder = tmp_path_factory.mktemp("page")
    page.write(folder, full_data)
    return folder / "report.html"


def write(folder, data):
    page.write(folder, data)
    return folder / "report.html"


def parse(path):
    parser = Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    assert not parser.open and len(set(parser.ids)) == len(parser.ids)
    return parser, " ".join(" ".join(parser.text).split())


def test_the_page_needs_nothing_else(written):
    parser, text = parse(written)
    assert parser.urls and all(url.startswith("#") for url in parser.urls)
    assert {url[1:] for url in parser.urls if url[1:] in parser.ids} >= {"overview", "images", "masking", "tables"}
    assert "import" not in page._template("style.css") and "url(" not in page._template("style.css")
    assert "fetch" not in page._template("gallery.js")
    assert "Gradient masking is suspected: resnet18/baseline." in text
    assert "It succeeds on 9." in text and "--dataset=cifar10" in text
    for table in ("Table 1", "Table 2", "Transfer matrix", "Attacks. Robust accuracy"):
        assert table in text


def test_the_sentence_compares_the_most_robust_defense_with_the_first(full_data, data):
    assert summary.sentence(data) == (
        "Under FGSM at eps 0.1, resnet18 classifies 40.0% of the test images correctly with the defense retrained and "
        "30.0% with baseline; of the clean images, 90.0% and 80.0%. On these 100 images, retrained is the most "
        "robust defense: +5.0 [+0.3, +9.7] points above augmented, the next."
    )
    only = dataclasses.replace(full_data, records=tuple(r for r in full_data.records if r.defense == "baseline"))
    assert summary.sentence(only) == "resnet18 classifies 12.0% of the test images correctly under pgd at eps 0.1."


def under_fgsm(defense, correct):
    """A record of an attack on `len(correct)` images."""
    correct, fields = np.asarray(correct, bool), {"attack": "pgd", "settings": {"steps": 20}}
    counts = {"n": len(correct), "correct": int(correct.sum()), "per_image": correct}
    return make_record("resnet18", defense, "whitebox", 0.1, float(correct.mean()), **counts, **fields)


def test_the_sentence_names_no_most_robust_defense_where_the_images_do_not_tell(data):
    images = np.arange(1000)
    ahead = [under_fgsm("baseline", images < 100), under_fgsm("augmented", images < 400)]
    like_augmented = under_fgsm("retrained", images < 410)
    exchanged = under_fgsm("retrained", (images >= 50) & (images < 460))  # the same accuracy on other images

    def said(*records):
        return summary.sentence(dataclasses.replace(data, records=(*records, *data.records)))

    gain = "retrained is the most robust defense: +1.0 [+0.4, +1.7] points above augmented, the next."
    assert said(*ahead, like_augmented).endswith(f"On these 1,000 images, {gain}")
    assert said(*ahead, exchanged).endswith(
        "80.0%. On these 1,000 images, retrained can't be told apart from augmented."
    )
    counts = [dataclasses.replace(record, per_image=None) for record in (*ahead, like_augmented)]
    assert said(*counts).endswith(
        "On these 1,000 images, retrained can't be told apart from augmented."
    )  # too wide to tell
    same = under_fgsm("retrained", images < 100), under_fgsm("augmented", images < 80)
    assert "On these 1,000 images, baseline can't be told apart from retrained." in said(ahead[0], *same)


def test_the_sentence_compares_defenses_on_the_images_that_all_have(data):
    images = np.arange(1000)
    few = under_fgsm("retrained", images[:200] < 150)  # 75% of 200
    many = under_fgsm("baseline", images < 300), under_fgsm("augmented", images < 800)  # all of the first 200
    sentence = summary.sentence(dataclasses.replace(data, records=(few, *many, *data.records)))
    assert sentence.startswith("resnet18 classifies 100.0% of the test images correctly")
    assert sentence.endswith("On these 200 images, baseline can't be told apart from augmented.")
    unknown = tuple(dataclasses.replace(record, per_image=None) for record in (few, *many))
    sentence = summary.sentence(dataclasses.replace(data, records=(*unknown, *data.records)))
    assert sentence == "The defenses of resnet18 were attacked by pgd on different images and can't be compared."


def test_the_page_of_few_results(data, tmp_path):
    _, text = parse(write(tmp_path, data))
    assert "Confusion" not in text and "Gradient masking" not in text
    clean = tuple(record for record in data.records if record.protocol == "clean")
    nothing = ReportData("cifar10", data.class_names, clean, data.known_defenses, "baseline")
    assert "resnet18 was not attacked." in parse(write(tmp_path, nothing))[1]


def test_names_are_escaped(full_data, tmp_path):
    awkward = '</script><script>alert("x")</script>&amp;'
    path = write(tmp_path, dataclasses.replace(full_data, class_names=(awkward, "b", "c"), dataset=awkward))
    parser, _ = parse(path)
    content = path.read_text(encoding="utf-8")
    assert "<script>alert" not in content
    assert embedded(content)["classes"][0] == awkward


def embedded(content):
    return json.loads(re.search(r'id="gallery-data">(.*?)</script>', content, re.DOTALL)[1])


def test_images_survive_exactly(full_data, written):
    gallery, shown = full_data.gallery, embedded(written.read_text(encoding="utf-8"))
    expected = [gallery.images, *gallery.models["resnet50/retrained"].adversarial]
    for uri, images in zip([shown["clean"], *shown["models"]["resnet50/retrained"]["adversarial"]], expected):
        strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
        np.testing.assert_array_equal(np.split(strip, len(images), axis=1), images)
    assert shown["labels"] == gallery.labels.tolist()


def test_the_page_of_many_large_images_stays_small(data, tmp_path):
    gallery = make_gallery(data.defenses, 3, n=20, shape=(224, 224, 3))
    page.write(tmp_path, dataclasses.replace(data, gallery=gallery))
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    shown = embedded((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(shown["labels"]) >= page.FEWEST_IMAGES and max(shown["size"]) <= page.MOST_PIXELS


# ---- in Chromium ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("needs Chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_works(browser, full_data, written, width, scheme):
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
    tab.goto(f"file://{written}")
    gallery, names = full_data.gallery, full_data.class_names
    tab.wait_for_selector("#gallery li")
    assert tab.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    for model, defense, level, label in (("resnet18", "baseline", 1, ""), ("resnet50", "retrained", 0, "1")):
        for control, value in (("model", model), ("defense", defense), ("eps", str(level)), ("class", label)):
            tab.select_option(f"[name={control}]", value)
        rows = np.flatnonzero(gallery.labels == int(label)) if label else np.arange(len(gallery.labels))
        attacked = gallery.models[f"{model}/{defense}"]
        tab.wait_for_function("n => document.querySelectorAll('#gallery li').length === n", arg=len(rows))
        for item, i in zip(tab.query_selector_all("#gallery li"), rows):
            found = re.findall(r": (\w+) \((\d+)%\)", item.inner_text())
            assert [name for name, _ in found] == [names[attacked.classes[k, i]] for k in (0, level + 1)]
            confidences = [100 * attacked.confidences[k, i] for k in (0, level + 1)]
            np.testing.assert_allclose([int(percentage) for _, percentage in found], confidences, atol=0.6)
        cells = tab.evaluate(
            "[...document.querySelectorAll('#confusion table')].map("
            "table => [...table.querySelectorAll('td')].map(cell => +cell.textContent))"
        )
        assert cells == [attacked.confusion[k].ravel().tolist() for k in (0, level + 1)]
        shown = tab.evaluate(
            "[...document.querySelectorAll('#gallery li')[0].querySelectorAll('canvas')].map(c =>"
            " [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 < 3))"
        )
        clean, adversarial = gallery.images[rows[0]], attacked.adversarial[level, rows[0]]
        assert shown[0] == clean.ravel().tolist() and shown[2] == adversarial.ravel().tolist()
        difference = (adversarial.astype(float) - clean) / (255 * gallery.epsilons[level])
        np.testing.assert_allclose(shown[1], 127.5 * (1 + np.clip(difference, -1, 1)).ravel(), atol=1)
    assert not messages
    tab.close()
