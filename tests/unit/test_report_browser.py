"""The report in Chromium: offline, by mouse and keyboard, from a link, and for assistive technology."""

import csv
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from spikeproof.command.reports import written_report
from spikeproof.experiments.read.results import records
from spikeproof.report.charts.drawing import Drawing

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import EVIL, Bench, N, arrays

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of eight models, one with a hostile name and one that is withheld, with a failed cell."""
    bench = Bench(tmp_path_factory.mktemp("browser"))
    kept = arrays()
    for encoder in ("latency", "direct", EVIL):
        for decoder in ("count", "first-spike"):
            train = bench.model(encoder, decoder)
            for k, epsilon in enumerate((0.05, 0.1)):
                accuracy = 0.8 - 0.3 * k - 0.1 * ("first" in decoder) - 0.05 * len(encoder) / 7
                accuracy += (0.1 - 0.2 * k) * (encoder == "direct")  # its curve crosses the others
                bench.attack(train, "pgd", epsilon, accuracy, arrays=kept)
                bench.attack(train, "square", epsilon, accuracy + 0.05, gradient_free=True, arrays=kept)
    train = bench.model("phase")
    bench.attack(train, "pgd", 0.1, 0.4, budget_violations=2)
    bench.fail("ValueError: no luck")
    return written_quickly(bench.finish("browsed " + EVIL))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A study of two architectures under two seeds, with certificates."""
    bench = Bench(tmp_path_factory.mktemp("several"))
    for encoder in ("latency", "direct"):
        for seed in (0, 1):
            train = bench.model(encoder, seed=seed, epochs=EPOCHS)
            for k, epsilon in enumerate((0.05, 0.1)):
                accuracy = 0.6 - 0.2 * k - 0.1 * seed - 0.01 * len(encoder)
                bench.attack(train, "pgd", epsilon, accuracy, losses=LOSSES)
                bench.certify(train, "ibp", epsilon, np.arange(N) >= N * (1 - 0.25 * (encoder == "direct")))
    return written_quickly(bench.finish("several"))


LOSSES = [0.5, 1.25, 2.0]
EPOCHS = [{"epoch": k, "loss": 1 / k, "validation_accuracy": 0.5, "seconds": 1.0} for k in (1, 2)]


def written_quickly(directory):
    """A directory with its report, without the figures for papers, which take long."""
    blank = {"svg": b'<svg viewBox="0 0 1 1"></svg>', "pdf": b"%PDF"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "files", lambda drawing: blank)
        written_report(directory)
    return directory


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, study):
    """Opens the report, offline; nothing may be asked for, and nothing may go wrong."""
    contexts, wrong = [], []

    def opened(link="", viewport=WIDE, of=study, **options):
        context = browser.new_context(viewport=viewport, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: wrong.append(request.url) if not local(request.url) else None)
        page.goto((of / "report.html").as_uri() + link)
        return page

    def local(url):
        return url.startswith(("file:", "blob:", "data:"))

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def saved(page, button="Data as CSV"):
    """The rows of the view, or of curves, as the button saves them."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_first_result_is_seen_without_scrolling(open_page, viewport):
    page = open_page(viewport=viewport)
    robust = page.locator("#ranking tbody tr").first.locator("td.n:visible").last
    box = robust.bounding_box()
    assert re.search(r"\d", robust.inner_text())
    assert box["y"] + box["height"] < viewport["height"]
    assert box["x"] + box["width"] <= viewport["width"]
    assert page.locator("#incomplete").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_a_view_can_be_filtered_sorted_hidden_saved_and_restored_from_its_link(open_page, study):
    page = open_page()
    page.locator("#controls summary", has_text="encoder").click()
    page.get_by_label("latency", exact=True).uncheck()
    assert page.get_by_label("latency", exact=True).evaluate("box => box === document.activeElement")
    page.locator("#view summary", has_text="Columns").click()
    page.locator("#view").get_by_label("silent %", exact=True).uncheck()
    page.locator("#view th button", has_text="linf 0.1").click()
    rows = saved(page)
    assert len(rows) == 5
    assert "latency" not in {row["encoder"] for row in rows}
    assert "silent %" not in rows[0]
    values = [float(row["linf 0.1"]) for row in rows if row["linf 0.1"]]
    assert len(values) == 4  # the withheld number is not saved
    assert values == sorted(values, reverse=True)
    again = open_page(page.evaluate("location.hash"))
    assert saved(again) == rows
    assert again.locator("#view th[aria-sort=descending]").inner_text().startswith("linf 0.1")


def test_the_slider_of_the_map_changes_its_budget(open_page, study):
    page = open_page("#?view=map&across=encoder&down=decoder")
    worst = {
        (row["encoder"], row["decoder"], row["epsilon"]): row["robust_accuracy"]
        for row in records(study)
        if row["attack"] == "worst-case"
    }
    for budget, epsilon in (("0", 0.05), ("1", 0.1)):
        slider = page.locator("input[type=range]").element_handle()
        slider.fill(budget)
        assert slider.evaluate("each => each.isConnected")  # so that it can be dragged
        assert page.locator("output").inner_text() == f"linf {epsilon}"
        for row in saved(page):
            if row["mean robust accuracy"]:
                found = float(row["mean robust accuracy"])
                assert found == pytest.approx(worst[row["encoder"], row["decoder"], epsilon], abs=1e-5)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_curves_are_in_the_order_of_the_ranking(open_page, scale):
    page = open_page(f"#?view=curves&scale={scale}")
    ranked = page.locator("#ranking tbody tr").all_inner_texts()
    budget = re.search(r"Ranking at (linf [\d.]+)", page.inner_text("body"))[1]
    drawn = dict.fromkeys(row["model"] for row in saved(page) if f"linf {row['epsilon']}" == budget)
    assert len(drawn) == len(ranked) == 6
    for name, row in zip(drawn, ranked, strict=True):
        assert name in " ".join(row.split())


def test_a_number_under_the_keyboard_says_what_it_is_and_opens_its_part(open_page, study):
    page = open_page("#?view=curves")
    point = page.locator("#view svg a[data-row]").first
    point.focus()
    words = page.locator("#tip").inner_text()
    assert re.search(r"robust accuracy [\d.]+ % \[[\d.]+, [\d.]+\], n = 200", words)
    assert "verdict: " in words
    point.press("Enter")
    part = page.locator("#part")
    part.wait_for()
    assert "Its attacks" in part.inner_text()
    assert "Shifts of first spikes" in part.inner_text()
    assert part.locator("canvas").count() == 2
    spikes = saved(page, "Save these spikes (CSV)")
    assert spikes[0].keys() == {"input", "time step", "clean", "attacked"}
    assert all("1" in (row["clean"], row["attacked"]) for row in spikes)
    again = open_page(page.evaluate("location.hash"))
    assert again.locator("#part").inner_text() == part.inner_text()


VIEWS = ("table", "curves", "map", "scatter", "confusion", "attacks")


@pytest.mark.parametrize("view", [*VIEWS, "seeds", "training"])
def test_every_word_of_a_view_is_explained_where_it_stands(open_page, several, view):
    page = open_page(f"#?view={view}", of=several)
    page.locator(f"#tab-{view}[aria-selected=true]").wait_for()
    summary = page.locator("#view details.words summary")
    summary.focus()
    summary.press("Enter")  # without a pointer
    explained = page.locator("#view details.words dt").all_inner_texts()
    assert explained
    assert all(page.locator("#view details.words dd").all_inner_texts())
    for heading in page.locator("#view th[scope=col] button").all():
        name = re.sub(r" [\u25b4\u25be]$", "", heading.inner_text())
        assert heading.get_attribute("title"), name
        assert name in explained or re.fullmatch(r"linf 0\.\d+", name)


@pytest.mark.parametrize("view", ["curves", "scatter"])
def test_a_mean_over_trainings_says_what_it_is_and_leads_to_its_trainings(open_page, several, view):
    page = open_page(f"#?view={view}&budget=0", of=several)
    rows = {row["encoder"]: [] for row in records(several)}
    for row in records(several):
        if row["attack"] == "worst-case" and row["epsilon"] == 0.05:
            rows[row["encoder"]].append(row["robust_accuracy"])
    marks, seen = page.locator("#view svg a[data-tip]"), 0
    for place in range(marks.count()):
        marks.nth(place).focus()
        words = page.locator("#tip").inner_text()
        if "linf 0.05" not in words:
            continue
        seen += 1
        values = rows[words.splitlines()[0]]
        mean, low, high = (f"{100 * each:.1f}" for each in (sum(values) / 2, min(values), max(values)))
        assert f"robust accuracy {mean} % [" in words
        assert f"trainings from {low} to {high} %" in words
    assert seen == 2
    marks.first.press("Enter")
    page.locator("#tab-seeds[aria-selected=true]").wait_for()
    assert page.locator("#view table").first.locator("tbody tr").count() == 2  # clean, and at the budget


def test_means_over_trainings_can_be_sorted_and_are_saved_at_every_budget(open_page, several):
    page = open_page("#?view=seeds&budget=0", of=several)
    column = page.get_by_role("region", name="Table of the view").locator("tbody tr td:nth-child(5)")

    def shown():
        return [float(re.match(r"[\d.]+", words)[0]) for words in column.all_inner_texts()]

    means = shown()
    assert len(set(means)) > 1
    for order in ("descending", "ascending"):
        page.get_by_role("button", name="mean over seeds").click()
        page.locator(f"#view th[aria-sort={order}]").wait_for()
        assert shown() == sorted(means, reverse=order == "descending")
    assert {row["budget"] for row in saved(page)} == {"clean", "linf 0.05", "linf 0.1"}


def test_curves_over_steps_are_saved_as_they_are_stored(open_page, several):
    page = open_page("#?view=attacks&row=4", of=several)  # worst cases come first
    rows = saved(page, "Curves as CSV")
    assert [(row["curve"], float(row["value"])) for row in rows] == [
        ("mean objective", loss) for loss in LOSSES
    ]
    assert [int(row["step"]) for row in rows] == [0, 1, 2]


def test_accuracies_that_are_proved_are_a_measure_of_the_scatter(open_page, several):
    page = open_page("#?view=scatter&x=certified&y=robust&means=", of=several)
    found = {row["model"]: row["certified accuracy [%]"] for row in saved(page)}
    assert {float(value) for value in found.values()} == {0.0, 25.0}


def test_hostile_names_stay_text_in_every_view(open_page):
    page = open_page()
    for view in VIEWS:
        page.evaluate(f"location.hash = '#?view={view}&model=4&row=8'")
        page.locator(f"#tab-{view}[aria-selected=true]").wait_for()
        assert page.evaluate("document.scripts.length") == 3
        assert page.locator("#view").inner_text()
        assert "<script>alert('&" in page.locator("#explorer").inner_text()


@pytest.mark.parametrize(
    "link",
    [
        "#?view=constructor&budget=0.5&row=-1&sort=x&model=9.5",
        "#?view=scatter&x=constructor&y=toString&budget=-3",
        "#?view=confusion&model=NaN&budget=1e9",
        "#?view=map&across=x&down=__proto__&more=z&off=a%01b",
        "#cell-constructor",
        "#row-1e3",
        "#worst-9-9",
        "#trust",
    ],
)
def test_a_link_that_names_what_there_is_not_opens_the_page(open_page, link):
    page = open_page(link)
    assert page.locator("#tabs button[aria-selected=true]").count() == 1
    assert page.locator("#view").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = open_page("#?view=table&row=0", color_scheme=scheme)
    for view in ("table", "map", "confusion") if scheme == "light" else ("curves",):
        page.evaluate(f"location.hash = '#?view={view}{'&row=0' if view == 'table' else ''}'")
        page.locator(f"#tab-{view}[aria-selected=true]").wait_for()
        only = None if view == "table" else "#explorer"
        found = axe.Axe().run(page, context=only).response["violations"]
        grave = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not grave, [(each["id"], [node["html"][:200] for node in each["nodes"][:2]]) for each in grave]
