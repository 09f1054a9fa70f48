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

from tests.report.conftest import make_gallery, make_record, without_published
from tfadv.defenses.clean import Original
from tfadv.report import cards, leaderboard, page, summary
from tfadv.report.data import ReportData, dataset_name
from tfadv.report.gallery import fooled_first
from tfadv.report.table import Table
from tfadv.report.tables import report_tables

VOID = {"meta", "br", "img", "link", "input", "path", "use"}


class Parser(html.parser.HTMLParser):
    """Collects ids, links, text and controls, and checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.urls, self.text, self.controls = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("button", "input", "select", "summary"):
            self.controls.append((tag, "aria-label" in attributes or "label" in self.open))
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
    links = [url[1:] for url in parser.urls if url[1:] in parser.ids]
    assert {"overview", "accuracy", "images", "classes", "masking", "tables"} <= set(links)
    assert links == [name for name in parser.ids if name in links]  # in the order of the page
    assert "import" not in page.template("style.css") and "url(" not in page.template("style.css")
    assert "fetch" not in page.template("page.js")
    assert "Gradient masking is suspected: resnet18/baseline." in text and "FGSM is a weak attack." in text
    assert "It succeeds on 9." in text and "--dataset=cifar10" in text
    for table in ("Table 1", "Table 2", "Transfer matrix", "Attacks. Robust accuracy"):
        assert table in text


def test_the_page_names_the_best_attack_on_another_model(data, tmp_path):
    row = {"n": 100, "eps": 0.1, "correct": {"a": 20, "b": 40}, "attack": {"a": "mifgsm", "b": "pgd"}}
    _, text = parse(write(tmp_path, dataclasses.replace(data, transfer_matrix={"a": row, "b": row})))
    assert "best transfer mifgsm on b pgd on a" in text


def test_every_control_has_a_name(written):
    parser, _ = parse(written)
    tags = {tag for tag, _ in parser.controls}
    assert tags == {"button", "input", "select", "summary"}
    assert all(named for tag, named in parser.controls if tag in ("input", "select"))
    content = written.read_text(encoding="utf-8")
    for tag in ("button", "summary"):
        for text in re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", content, re.DOTALL):
            assert re.sub(r"<span.*?</span>", "", text).strip()  # lights are hidden from screen readers


def test_the_cards_say_what_the_records_say(full_data, data, written):
    first, second = cards.cards(data)
    assert (first.model, first.attack) == ("resnet18", "FGSM, eps 0.1")
    for card in (first, second):
        assert [row.defense for row in card.rows] == ["baseline", "retrained"]
        for row in card.rows:
            assert row.clean is data.record(card.model, row.defense, "clean")
            assert row.attacked is data.record(card.model, row.defense, "whitebox", 0.1)
    assert first.sentence == (
        "The model classifies 80 of 100 images correctly, and 30 after an attack that changes each pixel by at most "
        "10% of the range from black to white. With the defense retrained, it classifies 90 correctly, and 40 after "
        "the attack."
    )
    assert first.rank == summary.sentence(data)[-len(first.rank) :] and "points above augmented" in first.rank
    (row,) = cards.cards(full_data)[0].rows  # PGD was run on the baseline only, which fails a check
    assert row.attacked.attack_label == "pgd" and row.doubtful
    content = written.read_text(encoding="utf-8")
    card = content[content.index('<article class="card">') : content.index("</article>")]
    assert re.findall(r"number\">([^<]*)<", card) == ["80.0%", "12.0%"]
    assert re.findall(r"interval\">([^<]*)<", card) == ["0.0 to 100.0", "10.0 to 15.0"]
    assert "may be too high" in card


def test_the_cards_say_neither_all_nor_none_without_reason(data):
    def card(defense="baseline", **fields):
        clean = make_record("mine", defense, "clean", accuracy=0.999, correct=999, n=1000)
        attacked = make_record("mine", defense, "whitebox", **{"eps": 0.03, "accuracy": 0.52, **fields})
        (found,) = cards.cards(dataclasses.replace(data, records=(clean, attacked)))
        return found

    def gain(correct):
        records = [make_record("mine", name, "clean", accuracy=0.9) for name in ("baseline", "retrained")]
        of_100 = {"baseline": np.arange(100) < 40, "retrained": np.arange(100) >= 100 - correct}
        for defense, right in of_100.items():
            own = {"accuracy": float(right.mean()), "correct": int(right.sum()), "per_image": right}
            records.append(make_record("mine", defense, "whitebox", 0.03, **own))
        return cards.cards(dataclasses.replace(data, records=tuple(records)))[0]

    assert gain(42).sentence.endswith("and 42 after the attack.") and "can't be told apart" in gain(42).rank
    assert gain(90).rank.startswith("On these 100 images, retrained is the most robust defense: +50.0 [")
    assert card().rank == "" and card().sentence == (
        "The model classifies more than 99 of 100 images correctly, and 52 after an attack that changes them so little "
        "that people hardly see it."
    )
    assert "and fewer than 1 after an attack" in card(accuracy=0.004, correct=4, n=1000).sentence
    assert "and none after an attack" in card(accuracy=0.0, correct=0).sentence
    l2 = card(eps=0.5, attack="pgd", settings={"norm": "l2"})
    assert l2.sentence.endswith("that changes them by at most 0.5 in L2.") and l2.attack == "pgd, eps 0.5"


def test_the_readout_shows_the_records_at_each_eps(data, written):
    readout = page._readout(data, "resnet50")
    assert readout["attacks"] == ["FGSM, white-box", "FGSM, transfer"] and readout["sizes"] == ["0", "0.01", "0.1"]
    title, color, (whitebox, transfer) = readout["rows"][2]
    assert (title, color) == ("Retrained", "#009E73")
    assert whitebox == ["90.0 [0.0, 100.0]", "40.0 [0.0, 100.0]", "40.0 [0.0, 100.0]"]
    assert transfer == ["90.0 [0.0, 100.0]", "50.0 [0.0, 100.0]", "50.0 [0.0, 100.0]"]


def test_the_page_of_your_own_model_and_folder(data, tmp_path):
    records = tuple(dataclasses.replace(r, defense="original") for r in data.records if r.defense == "baseline")
    own = {"dataset": "folder:/home/me/photos", "known_defenses": (Original(),), "first": "original"}
    _, text = parse(write(tmp_path, dataclasses.replace(without_published(data), records=records, **own)))
    assert "Robustness on photos" in text and "/home/me" not in text
    assert "your own model as it is" in text and "trained from" not in text
    assert dataset_name("mnist:3.0.1") == "mnist:3.0.1" and dataset_name("npz:a/b.npz") == "b.npz"


def test_long_numbers_in_labels_are_short_on_the_page_only(data, tmp_path):
    full = "nfgsm(eps=0.03137254901960784+12.0)"
    records = [dataclasses.replace(r, defense=full) if r.defense == "retrained" else r for r in data.records]
    shown = dataclasses.replace(data, records=tuple(records))
    path = write(tmp_path, shown)
    assert "0.03137254901960784" not in path.read_text(encoding="utf-8")
    assert "With the defense nfgsm(eps=8/255+12.0), it classifies 90" in parse(path)[1]
    assert full in report_tables(shown)["table1"].csv()


def test_sizes_of_whole_levels_are_read_as_such_and_scripts_keep_the_numbers(full_data, tmp_path):
    sizes = {0.01: 4 / 255, 0.1: 8 / 255}
    records = tuple(dataclasses.replace(r, eps=sizes.get(r.eps, r.eps)) for r in full_data.records)
    gallery = dataclasses.replace(full_data.gallery, epsilons=tuple(sizes.values()))
    path = write(tmp_path, dataclasses.replace(full_data, records=records, gallery=gallery))
    found = re.search(r'id="gallery-data">(.*?)</script>', path.read_text(encoding="utf-8"))
    content = json.loads(found[1])
    assert content["epsilons"] == [4 / 255, 8 / 255] and content["sizes"] == ["4/255", "8/255"]
    text = parse(path)[1].replace(found[1], "")
    assert "eps 8/255" in text and "0.0313725" not in text


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
    assert "FGSM is a weak attack." in text
    clean = tuple(record for record in data.records if record.protocol == "clean")
    nothing = ReportData("cifar10", data.class_names, clean, data.known_defenses, "baseline")
    assert "It was not attacked." in parse(write(tmp_path, nothing))[1]


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


def test_a_page_with_room_for_few_images_shows_fooled_ones_of_each_class(data):
    gallery = make_gallery(["baseline"], 3, n=9)
    labels = np.arange(9) // 3
    attacked = gallery.models["resnet18/baseline"]
    classes = np.repeat(labels[None], 3, axis=0)
    classes[2, [1, 2, 5]] = 3  # at the largest eps
    classes[:, 8] = 0  # misclassified without an attack
    models = {"resnet18/baseline": dataclasses.replace(attacked, classes=classes)}
    gallery = dataclasses.replace(gallery, labels=labels, models=models)
    assert fooled_first(gallery, 2).tolist() == [1, 5]
    assert fooled_first(gallery, 4).tolist() == [0, 1, 2, 5]
    assert fooled_first(gallery, 99).tolist() == list(range(9))


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


def opened(browser, path, width=1400, scheme="light"):
    """(the page in a tab, a list of messages, errors and requests to the network)."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
    tab.goto(f"file://{path}")
    tab.wait_for_selector("#gallery li")
    return tab, messages


def column(tab, table, number):
    """The texts of a column of a table."""
    script = "([table, i]) => [...document.querySelector(table).tBodies[0].rows].map(row => row.cells[i].textContent)"
    return tab.evaluate(script, [table, number])


def test_tables_are_sorted_by_their_headers(browser, written):
    tab, messages = opened(browser, written)
    # numbers of one to three digits, with an interval, and none
    for row, cell, text in ((0, 2, "9.00"), (4, 2, "100.00"), (1, 2, "85.00 ± 3.2"), (0, 4, "–")):
        place = f"document.querySelector('#overview tbody').rows[{row}].cells[{cell}]"
        tab.evaluate(f"text => {{ {place}.textContent = text; }}", text)
    head = tab.query_selector_all("#overview th")
    head[2].query_selector("button").click()
    assert column(tab, "#overview table", 2) == ["100.00", "90.00", "90.00", "85.00 ± 3.2", "80.00", "9.00"]
    assert head[2].get_attribute("aria-sort") == "descending"
    head[2].query_selector("button").press("Enter")
    assert column(tab, "#overview table", 2) == ["9.00", "80.00", "85.00 ± 3.2", "90.00", "90.00", "100.00"]
    assert head[2].get_attribute("aria-sort") == "ascending"
    for sign in (-1, 1):
        head[4].query_selector("button").click()
        shown = column(tab, "#overview table", 4)
        assert shown[3:] == ["–"] * 3 and [text[:2] for text in shown[:3]] == ["20", "30", "40"][::sign]
    head[1].query_selector("button").click()
    names = column(tab, "#overview table", 1)
    assert names == sorted(names) and len(set(names)) == 3
    assert [each.get_attribute("aria-sort") for each in head] == ["none", "ascending", "none", "none", "none"]
    assert not messages
    tab.close()


def test_the_rows_of_a_long_table_are_filtered(browser, tmp_path):
    table = Table("Numbers", ("number", "kind"), [(str(i), ("even", "odd")[i % 2]) for i in range(30)])
    rendered = (
        page.environment().from_string('{% from "table.html" import table %}{{ table(shown) }}').render(shown=table)
    )
    (tmp_path / "page.html").write_text(f"<body>{rendered}<script>{page.template('table.js')}</script>")
    tab = browser.new_page()
    tab.goto(f"file://{tmp_path / 'page.html'}")
    field, count = tab.query_selector("input"), tab.query_selector("output")
    assert count.inner_text() == "30 rows"
    for words, rows in (("ODD 2", ["21", "23", "25", "27", "29"]), ("none", []), ("", [str(i) for i in range(30)])):
        field.fill(words)
        shown = tab.query_selector_all("tbody tr:not([hidden])")
        assert [row.query_selector("td").inner_text() for row in shown] == rows
        assert count.inner_text() == (f"{len(rows)} of 30 rows" if words else "30 rows")
    tab.close()


def test_the_plot_shows_the_accuracies_at_the_pointer_and_at_the_slider(browser, data, written):
    tab, messages = opened(browser, written)
    readout, chart = page._readout(data, "resnet50"), tab.query_selector_all(".chart")[1]

    def shown():
        texts = [cell.text_content() for cell in chart.query_selector_all("td")]
        return chart.query_selector("output").text_content(), texts

    def expected(i):
        return readout["sizes"][i], [line[i] for _, _, lines in readout["rows"] for line in lines]

    assert shown() == expected(2)
    slider = chart.query_selector("input")
    slider.press("Home")
    assert shown() == expected(0) and slider.get_attribute("aria-valuetext").startswith("0: Baseline 80.0 [0.0, 100.0]")
    slider.press("ArrowRight")
    assert shown() == expected(1)
    box = chart.query_selector(".plot").bounding_box()
    left = json.loads(chart.get_attribute("data-left"))
    for i in (2, 0):
        tab.mouse.move(box["x"] + left[i] * box["width"] + 5, box["y"] + 40)
        assert shown() == expected(i)
        marker = chart.query_selector(".cursor").bounding_box()
        assert abs(marker["x"] - box["x"] - left[i] * box["width"]) < 2
    assert not messages
    tab.close()


def test_the_first_images_are_fooled_and_say_from_which_eps(browser, full_data, written):
    tab, _ = opened(browser, written)
    gallery = full_data.gallery
    attacked = gallery.models["resnet18/baseline"]
    wrong = attacked.classes != gallery.labels
    first = np.where(wrong[0] | ~wrong[1:].any(axis=0), len(gallery.epsilons), wrong[1:].argmax(axis=0))
    shown = [item.inner_text() for item in tab.query_selector_all("#gallery li")]
    assert len(shown) == 6 and 0 < (first < 2).sum() < 6
    for text, start in zip(shown, sorted(first)):
        assert ("fooled from eps" in text or "fooled at eps" in text) == (start < 2)
        assert start == 2 or f"eps {gallery.epsilons[start]}" in text
    tab.click("#more")
    tab.wait_for_function("document.querySelectorAll('#gallery li').length === 8")
    tab.click("#more")
    tab.wait_for_function("document.querySelectorAll('#gallery li').length === 6")
    tab.close()


def test_every_control_is_reached_by_the_keyboard_alone_and_shows_it(browser, written):
    tab, messages = opened(browser, written)
    controls = (
        "[...document.querySelectorAll('a, button, input, select, summary')].filter(each => each.checkVisibility())"
    )
    expected = tab.evaluate(f"{controls}.map((each, i) => {{ each.dataset.number = i; return i; }})")
    reached, hidden = [], []
    tab.evaluate("document.body.focus()")
    for _ in range(3 * len(expected)):
        tab.keyboard.press("Tab")
        number, outline = tab.evaluate(
            "[document.activeElement.dataset.number, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached += [int(number)] if number is not None else []
        hidden += [number] if outline == "none" and number is not None else []
        if len(reached) == len(expected):
            break
    assert reached == expected and not hidden and not messages  # in the order of the page
    tab.close()


def test_the_leaderboard_is_sorted_by_the_keyboard(browser, data, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        records = [dataclasses.replace(record, per_image=None).to_dict() for record in data.records]
        (tmp_path / name / "results.json").write_text(json.dumps(records))
    path = tmp_path / "leaderboard.html"
    leaderboard.write([tmp_path / "a", tmp_path / "b"], path)
    assert parse(path)
    tab = browser.new_page(viewport={"width": 390, "height": 900})
    tab.goto(f"file://{path}")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    summary_element, table = tab.query_selector("summary"), tab.query_selector("table")
    summary_element.press("Enter")
    assert tab.is_visible(".order")
    clean = leaderboard.HEAD.index("clean")
    for sign in (-1, 1):
        table.query_selector_all("th button")[clean].press("Enter")
        shown = [float(text.split()[0]) for text in column(tab, "table", clean)]
        assert shown == sorted(shown, reverse=sign < 0) and len(set(shown)) > 1
    assert [link.get_attribute("href") for link in tab.query_selector_all("td a")][0] in (
        "a/results.json",
        "b/results.json",
    )
    tab.close()


def test_everything_that_is_folded_opens_and_is_printed(browser, written):
    tab, messages = opened(browser, written)
    for summary_element in tab.query_selector_all("main > section > details:not([open]) > summary"):
        summary_element.press("Enter")
    assert not tab.query_selector_all("main > section > details:not([open])")
    tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = false; })")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not tab.query_selector_all("details:not([open])")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not tab.query_selector_all("details[open]") and not messages
    tab.close()


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_controls_of_the_gallery_work(browser, full_data, written, width, scheme):
    tab, messages = opened(browser, written, width, scheme)
    gallery, names = full_data.gallery, full_data.class_names
    tab.click("#more")
    assert tab.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    for model, defense, level, label in (("resnet18", "baseline", 1, ""), ("resnet50", "retrained", 0, "1")):
        for control, value in (("model", model), ("defense", defense), ("class", label)):
            tab.select_option(f"[name={control}]", value)
        tab.fill("[name=eps]", str(level))
        attacked = gallery.models[f"{model}/{defense}"]
        rows = np.flatnonzero(gallery.labels == int(label)) if label else np.arange(len(gallery.labels))
        wrong = attacked.classes[:, rows] != gallery.labels[rows]
        first = np.where(wrong[0] | ~wrong[1:].any(axis=0), len(gallery.epsilons), wrong[1:].argmax(axis=0))
        rows = rows[np.argsort(first, kind="stable")]  # fooled at the smallest eps first
        said = f"{model}, {defense}: FGSM at eps {gallery.epsilons[level]:g} fools"
        shown = "([said, n]) => document.querySelector('#summary').textContent.startsWith(said) && "
        shown += "document.querySelectorAll('#gallery li').length === n"
        tab.wait_for_function(shown, arg=[said, len(rows)])
        for item, i in zip(tab.query_selector_all("#gallery li"), rows):
            found = re.findall(r": (\w+) \((\d+)%\)", item.inner_text())
            assert [name for name, _ in found] == [names[attacked.classes[k, i]] for k in (0, level + 1)]
            confidences = [100 * attacked.confidences[k, i] for k in (0, level + 1)]
            np.testing.assert_allclose([int(percentage) for _, percentage in found], confidences, atol=0.6)
        cells = tab.evaluate(
            "[...document.querySelectorAll('#confusion table')].map("
            "table => [...table.querySelectorAll('tbody td')].map(cell => +cell.textContent))"
        )
        assert cells == [attacked.confusion[k].ravel().tolist() for k in (0, level + 1)]
        bars = tab.evaluate("[...document.querySelectorAll('#bars td')].map(cell => parseFloat(cell.textContent))")
        shares = [100 * np.diag(attacked.confusion[k]) / attacked.confusion[k].sum(axis=1) for k in (0, level + 1)]
        np.testing.assert_allclose(bars, np.transpose(shares).ravel(), atol=0.51)
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
