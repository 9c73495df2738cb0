"""report.html: what is in the page, and what a browser shows of it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.adjustment import Adjustment
from invdiff.errors import InputError
from invdiff.evaluation import report
from invdiff.evaluation.report import PAGE, SCRIPT, STYLE, write_report
from invdiff.fingerprint import Key
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import Denoise, GaussianBlur, MaskBox, Operator, PartialFourier, Radon
from invdiff.posterior import Posterior
from invdiff.problem import Problem

EVIL = "<img src=x onerror=\"document.title='caught'\"></script><script>document.title='caught'</script><!--"


def made(
    operator: Operator, samples: int = 5, images: int = 2, sigma: float = 0.025
) -> tuple[Tensor, Posterior]:
    """Random truth, and a posterior of random samples around it, some of them outside [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(images, *operator.shape, generator=generator)
    drawn = truth + 0.2 * torch.randn(samples, *truth.shape, generator=generator)
    return truth, Posterior(
        drawn, Problem.simulate(truth, operator, Gaussian(sigma)), nfe=7, seconds=1.5
    )


def page_data(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    (block,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL
    )
    return json.loads(block)


def decoded(plane: dict[str, Any]) -> Tensor:
    """What the page's comment says of a plane, once more."""
    levels = np.frombuffer(base64.b64decode(plane["data"]), f"<u{plane['bits'] // 8}").astype(
        np.float64
    )
    values = np.where(levels == 0, np.nan, plane["low"] + (levels - 1) * plane["step"])
    return torch.from_numpy(values).float().view(plane["shape"])


def test_the_page_holds_the_samples(tmp_path: Path) -> None:
    truth, posterior = made(MaskBox((1, 12, 9), 4, 3))
    metrics = {"baseline": {"PSNR": [10.0, 11.0]}, "mean": {"PSNR": [20.0, float("inf")]}}
    path = tmp_path / "report.html"
    write_report(
        path,
        posterior,
        truth=truth,
        names=["a", "b"],
        metrics=metrics,
        config="seed: 0\n",
        title="t & t",
    )
    data = page_data(path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (
        data["config"] == "seed: 0\n"
        and data["notes"] == []
        and "<title>t &amp; t</title>" in path.read_text()
    )
    assert data["metrics"]["mean"]["PSNR"] == [20.0, "inf"]
    for b, image in enumerate(data["images"]):
        assert image["name"] == "ab"[b]
        assert image["noise"] == "Gaussian, sigma = 0.025 ([0,1]) = 6.4/255 = 0.05 ([-1,1])"
        stored = {
            "samples": posterior.samples[:, b],
            "truth": truth[None, b],
            "baseline": posterior.baseline[None, b],
        }
        for name, exact in stored.items():
            assert image[name]["bits"] == 16
            assert (
                float((decoded(image[name]) - exact).abs().max())
                <= 0.51 * image[name]["step"]
                < 3e-5
            )
        y, measured = decoded(image["measurement"])[0], posterior.problem.measured()[b] != 0
        assert bool((y.isnan() == ~measured).all()) and 0 < int((~measured).sum()) == 12
        assert torch.allclose(y[measured], posterior.problem.y[b][measured], atol=3e-5)


def test_noise_that_varies_is_described_by_its_root_mean_square(tmp_path: Path) -> None:
    _, gaussian = made(Denoise((1, 8, 8)))
    problem = Problem(
        gaussian.problem.operator, Gaussian(torch.tensor([0.1, 0.2])), gaussian.problem.y
    )
    write_report(tmp_path / "g.html", Posterior(gaussian.samples, problem, 1, 1.0))
    found = [image["noise"] for image in page_data(tmp_path / "g.html")["images"]]
    assert [text.partition(" ([0,1])")[0] for text in found] == [
        "Gaussian, sigma = 0.1",
        "Gaussian, sigma = 0.2",
    ]
    y = torch.tensor([0.25, 0.75]).repeat(1, 1, 8, 4)
    write_report(
        tmp_path / "p.html",
        Posterior(y[None], Problem(Denoise((1, 8, 8)), Poisson(50.0), y), 1, 1.0),
    )
    (image,) = page_data(tmp_path / "p.html")["images"]
    assert image["noise"].startswith(
        "Poisson, root mean square sigma = 0.1 ([0,1]) = 25.5/255"
    )  # sqrt(0.5 / 50)


def test_names_and_settings_are_text(tmp_path: Path) -> None:
    truth, posterior = made(Denoise((1, 8, 8)))
    write_report(tmp_path / "r.html", posterior, names=[EVIL, "b\udcff"], config=EVIL, title=EVIL)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<img" not in text and text.count("</script>") == 2 and text.count("<!--") == 0
    assert page_data(tmp_path / "r.html")["images"][0]["name"] == EVIL
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert (
        policy.startswith("default-src 'none'; ")
        and "unsafe" not in policy
        and "http" not in policy
    )
    template = "".join(file.read_text(encoding="utf-8") for file in (PAGE, STYLE, SCRIPT))
    assert (
        re.findall(r"""\b(?:src|href)=["']?([^"' >]*)""", template) == ["data:,"]
        and "@import" not in template
    )


def test_large_pages_are_bounded_and_say_what_was_reduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MOST_BYTES", 190_000)
    torch.manual_seed(1)
    operator = MaskBox((3, 101, 153), 40, 60)
    truth = torch.rand(1, *operator.shape)
    samples = (truth + 0.1 * torch.randn(4, *truth.shape)).contiguous()
    posterior = Posterior(
        samples, Problem(operator, Gaussian(0.1), operator.measured(truth)), 1, 1.0
    )
    path = tmp_path / "large.html"
    write_report(path, posterior, truth=truth)
    assert path.stat().st_size < 4 / 3 * 190_000 + 2**16
    data = page_data(path)
    assert "average of 2 x 2 pixels" in data["notes"][0] and "254 steps" in data["notes"][1]
    stored, y = (decoded(data["images"][0][name]) for name in ("samples", "measurement"))
    assert stored.shape == (4, 3, 51, 77)
    averages = samples[:, 0, :, :100, :152].unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    step = data["images"][0]["samples"]["step"]
    assert float((stored[..., :50, :76] - averages).abs().max()) <= 0.51 * step < 0.005
    corner = samples[:, 0, :, 100, 152]  # a block of which only one pixel is in the image
    assert float((stored[..., -1, -1] - corner).abs().max()) <= 0.51 * step
    assert bool(y[0, :, 25, 38].isnan().all()) and not bool(y[0, :, 10, 10].isnan().any())


def test_many_images_are_cut_to_the_first(tmp_path: Path) -> None:
    _, posterior = made(Denoise((1, 4, 4)), images=70)
    write_report(tmp_path / "r.html", posterior)
    data = page_data(tmp_path / "r.html")
    assert len(data["images"]) == 64 and "first 64 of 70" in data["notes"][0]


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    _, posterior = made(Denoise((1, 8, 8)))
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "nowhere" / "r.html", posterior)


# ------------------------------------------------------------------------------------------- in a
# browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1280,1000",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium, Debian's; nothing is downloaded."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def visit(browser: Any, path: Path) -> None:
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())


def assert_quiet(browser: Any, path: Path) -> None:
    """Nothing in the console, and no request but for the page itself."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        event["params"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    sent = {
        request["request"]["url"] for request in requests if request["documentURL"] == path.as_uri()
    }
    assert sent <= {path.as_uri(), "data:,"} and path.as_uri() in sent


def texts(browser: Any, selector: str) -> list[str]:
    """The texts of the elements, read at once: a page that draws itself anew removes them."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())"
    found: list[str] = browser.execute_script(script, selector)
    return found


def numbers(browser: Any, row: str) -> list[list[float]]:
    """The numbers of a row of the table of the pixel, per channel."""
    cells = texts(browser, f"#reading .{row} td")
    return [[float(word) for word in cell.replace("to", " ").split()] for cell in cells]


def click_pixel(browser: Any, stage: str, row: int, column: int, size: tuple[int, int]) -> None:
    from selenium.webdriver import ActionChains

    element = browser.find_element("css selector", stage)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    box = element.rect
    x, y = ((i + 0.5) / n - 0.5 for i, n in zip((column, row), reversed(size), strict=True))
    ActionChains(browser).move_to_element_with_offset(
        element, x * box["width"], y * box["height"]
    ).click().perform()


def check_pixel(browser: Any, samples: Tensor, row: int, column: int) -> None:
    """The page's numbers are those of samples (K, C, H, W) at the pixel, to their four digits and
    16 bits.
    """
    values = samples[..., row, column].double()
    ordered = values.sort(0).values
    # Of 7 samples the range holds 75 %, and the second to the sixth hold 50 %.
    for name, places in {"median": [3], "inner": [1, 5], "outer": [0, 6]}.items():
        assert np.allclose(numbers(browser, name), ordered[places].T, atol=9e-5, rtol=0), name
    assert texts(browser, "#reading .outer th") == ["75 % interval"]
    assert texts(browser, "#reading .inner th") == ["50 % interval"]
    assert np.allclose(numbers(browser, "std"), values.std(0)[:, None], atol=9e-5, rtol=0)


def test_the_browser_shows_calibrated_intervals(browser: Any, tmp_path: Path) -> None:
    """Half-widths around the median times the factors; 4 samples have 90 % by calibration alone."""
    _, posterior = made(MaskBox((1, 12, 16), 4, 6), samples=4)
    key = Key("a", "b", "c", "d", (1, 12, 16), 4)
    source = "64 images drawn from the prior"
    adjustment = Adjustment(key, 64, source, {"mean": {0.5: 0.75, 0.9: 2.5}}, 1.0, 0.1)
    posterior = replace(posterior, adjustment=adjustment)
    write_report(tmp_path / "report.html", posterior)
    visit(browser, tmp_path / "report.html")
    assert texts(browser, "#level") == ["calibrated on 64 images"]
    assert source in texts(browser, "#level-note")[0]
    click_pixel(browser, "#compare .stage", 3, 13, (12, 16))
    for row, level in {"outer": 0.9, "inner": 0.5}.items():
        found = posterior.interval(level)
        expected = [[float(end[0, 0, 3, 13]) for end in (found.low, found.high)]]
        assert np.allclose(numbers(browser, row), expected, atol=2e-4, rtol=0)
        assert texts(browser, f"#reading .{row} th") == [f"{100 * level:.0f} % interval"]
    write_report(tmp_path / "report.html", replace(posterior, adjustment=None))
    visit(browser, tmp_path / "report.html")
    assert texts(browser, "#level") == ["not calibrated"]
    assert texts(browser, "#reading .outer th") == ["60 % interval"]
    assert texts(browser, "#reading .inner th") == []
    assert "4 samples have at most 60 %: 90 % needs 19." in texts(browser, "#level-note")[0]


def test_the_browser_shows_the_quantiles_of_the_clicked_pixel(browser: Any, tmp_path: Path) -> None:
    truth, posterior = made(MaskBox((3, 12, 16), 4, 6), samples=7)
    metrics = {
        "baseline": {"PSNR": [10.0, 12.0]},
        "sample": {"PSNR": [20.0, 22.0]},
        "mean": {"PSNR": [24.0, 25.0]},
    }
    path = tmp_path / "report.html"
    write_report(
        path, posterior, truth=truth, names=["one", EVIL], metrics=metrics, config=EVIL, title=EVIL
    )
    visit(browser, path)
    assert browser.title == EVIL == texts(browser, "h1")[0] == texts(browser, "#config pre")[0]
    click_pixel(browser, "#compare .stage", 3, 13, (12, 16))
    check_pixel(browser, posterior.samples[:, 0], 3, 13)
    assert np.allclose(numbers(browser, "truth"), truth[0, :, 3, 13, None], atol=9e-5)
    click_pixel(browser, "#spread .stage", 11, 0, (12, 16))
    check_pixel(browser, posterior.samples[:, 0], 11, 0)
    shown = posterior.std[0, :, 11, 0].mean()
    assert float(texts(browser, "#here")[0].split()[0]) == pytest.approx(float(shown), abs=9e-5)

    # By keyboard: the pixel, the divider, the samples, the image.
    element = browser.find_element("css selector", "#compare .stage")
    element.send_keys("\ue013\ue014")  # arrow up, arrow right
    check_pixel(browser, posterior.samples[:, 0], 10, 1)
    cut = "return getComputedStyle(document.querySelector('#compare .stage')).getPropertyValue('--cut')"
    assert browser.execute_script(cut) == "50%"
    browser.find_element("id", "cut").send_keys("\ue010")  # the key End
    assert browser.execute_script(cut) == "100%"
    element.send_keys(".")
    assert texts(browser, "#which") == ["2 of 7"]
    assert np.allclose(numbers(browser, "now"), posterior.samples[1, 0, :, 10, 1, None], atol=9e-5)
    browser.find_elements("css selector", "#images input")[0].send_keys("\ue014")
    check_pixel(browser, posterior.samples[:, 1], 10, 1)
    assert texts(browser, "#images bdi")[0] == "one"
    assert [row.split() for row in texts(browser, "#scores table:first-child td")] == [
        ["12.00"],
        ["22.00"],
        ["25.00"],
    ]
    assert [row.split() for row in texts(browser, "#scores table:last-child td")] == [
        ["11.00"],
        ["21.00"],
        ["24.50"],
    ]
    assert browser.title == EVIL
    assert_quiet(browser, path)


def test_the_browser_shows_estimates_of_different_metrics(browser: Any, tmp_path: Path) -> None:
    _, posterior = made(Denoise((1, 8, 8)))
    metrics = {
        "baseline": {"misfit": [1.0, 3.0]},
        "sample": {},
        "mean": {"PSNR": [20.0, 22.0], "misfit": [1.5, float("nan")]},
    }
    write_report(tmp_path / "r.html", posterior, metrics=metrics)
    visit(browser, tmp_path / "r.html")
    first = "#scores table:first-child "
    assert texts(browser, first + "thead th")[1:] == ["PSNR", "misfit"]
    dash = "\u2013"
    assert texts(browser, first + "td") == [dash, "1.00", dash, dash, "20.00", "1.50"]
    last = texts(browser, "#scores table:last-child td")
    assert last == [dash, "2.00", dash, dash, "21.00", dash]
    assert_quiet(browser, tmp_path / "r.html")


def test_the_browser_paints_measurement_and_mean_on_either_side(
    browser: Any, tmp_path: Path
) -> None:
    truth, posterior = made(MaskBox((1, 12, 16), 4, 6), images=1)
    write_report(tmp_path / "report.html", posterior)
    visit(browser, tmp_path / "report.html")
    for side, picture in {"before": posterior.problem.y, "after": posterior.mean}.items():
        found = browser.execute_script(
            f"const c = document.querySelector('.{side}');"
            "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        )
        gray, alpha = (
            torch.tensor(found, dtype=torch.float32).view(12, 16, 4)[..., [0, 3]].unbind(-1)
        )
        measured = posterior.problem.measured()[0, 0] if side == "before" else torch.ones(12, 16)
        assert bool((alpha == 255 * measured).all())
        assert (
            float((gray / 255 - picture[0, 0].clamp(0, 1))[measured == 1].abs().max()) < 0.6 / 255
        )
    assert_quiet(browser, tmp_path / "report.html")


def test_the_policy_stops_pictures_scripts_and_requests_from_elsewhere(
    browser: Any, tmp_path: Path
) -> None:
    _, posterior = made(Denoise((1, 8, 8)))
    write_report(tmp_path / "report.html", posterior)
    visit(browser, tmp_path / "report.html")
    stopped = browser.execute_async_script(
        """
        const done = arguments[0], found = [];
        document.addEventListener("securitypolicyviolation", event => {
          found.push(event.effectiveDirective);
          if (found.length === 3) done(found);
        });
        const picture = document.createElement("img"), script = document.createElement("script");
        picture.src = "https://example.invalid/x.png";
        script.textContent = "document.title = 'caught'";
        document.body.append(picture, script);
        fetch("https://example.invalid/").catch(() => {});
        """
    )
    assert (
        sorted(stopped) == ["connect-src", "img-src", "script-src-elem"]
        and browser.title == "Posterior samples"
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_the_browser_shows_every_kind_of_run(browser: Any, tmp_path: Path, width: int) -> None:
    from invdiff.operators import BlockAverage, Hadamard, Radon

    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 800}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    shape = (1, 16, 16)
    runs = {
        "low": made(BlockAverage(shape, 4)),
        "sinogram": made(Radon(shape, angles=10)),
        "coefficients": made(Hadamard(shape, 0.5)),
        "single": made(Denoise(shape), 1, 1),
        "exact": made(Denoise(shape), sigma=0.0),
        "pixel": made(Denoise((1, 1, 1))),
        "line": made(Denoise((3, 1, 40))),
    }
    for name, (_, posterior) in runs.items():
        path = tmp_path / f"{name}.html"
        write_report(path, posterior, config="samples: 1")
        visit(browser, path)
        assert texts(browser, "#reading .median td")[0] not in ("", "–"), name
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
        assert_quiet(browser, path)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_looks_like_the_image() -> None:
    """A blur and a mask do; k-space, a sinogram and a measurement of nothing do not."""
    shape = (1, 16, 16)

    def looks_like_it(operator: Operator) -> bool:
        y = torch.zeros(1, *operator.measurement_shape)
        return report.is_of_the_scene(Problem(operator, Gaussian(0.1), y))

    assert looks_like_it(GaussianBlur(shape, sigma=1.0))
    assert looks_like_it(MaskBox(shape, height=4, width=4))
    assert not looks_like_it(PartialFourier(shape, torch.ones(16, 16)))
    assert not looks_like_it(Radon(shape, angles=8))

    class Times(Operator):
        """A times x, but for the right half, which is zero."""

        def __init__(self, factor: float, shown: int) -> None:
            super().__init__(shape)
            self.factor = factor
            self.shown = shown

        def forward(self, x: Tensor) -> Tensor:
            y = self.factor * x
            y[..., self.shown :] = 0
            return y

    assert looks_like_it(Times(-1.0, 16)) and looks_like_it(Times(0.12, 16))
    assert not looks_like_it(Times(0.08, 16)) and not looks_like_it(Times(-0.08, 16))
    assert looks_like_it(Times(1.0, 9)) and not looks_like_it(Times(1.0, 7))


@pytest.mark.parametrize(("images", "channels", "count"), [(1, 1, 1), (2, 3, 5)])
def test_the_facts_of_the_page(tmp_path: Path, images: int, channels: int, count: int) -> None:
    _, posterior = made(Denoise((channels, 7, 9)), samples=count, images=images)
    write_report(tmp_path / "r.html", posterior)
    data = page_data(tmp_path / "r.html")
    assert data["facts"] == {
        "operator": "Denoise",
        "image": f"7 x 9, {'1 channel' if channels == 1 else '3 channels'}",
        "samples": f"{count} of {'the image' if images == 1 else 'each image'}",
        "network calls": "7 a sample",
        "time": "1.5 s",
    }
    assert data["title"] == "Posterior samples" and data["metrics"] == {} and data["config"] == ""
    assert data["scene"] is True and data["notes"] == []
    assert [image["name"] for image in data["images"]] == ["000", "001"][:images]
    assert set(data["images"][0]) == {"name", "noise", "samples", "baseline", "measurement"}
    _, other = made(PartialFourier((1, 8, 8), torch.ones(8, 8)))
    write_report(tmp_path / "r.html", other)
    data = page_data(tmp_path / "r.html")
    assert data["scene"] is False and not other.problem.y_is_picture
    assert "measurement" not in data["images"][0]


def test_what_fits_into_a_page() -> None:
    """16 bits while they fit, to the byte; then 8, and as many pixels of a plane as 8 bits leave."""
    most = report.MOST_BYTES
    assert most == 12 * 2**20 and report.MOST_IMAGES == 64
    assert report.resolution(6, 2**20) == (16, 2**20)
    assert report.resolution(6, 2**20 + 1) == (8, 2 * 2**20)
    assert report.resolution(12, 2**20 + 1) == (8, 2**20)
    for found, pixels, side in (
        (100, 100, 1),
        (101, 100, 2),
        (100, 25, 2),
        (101, 25, 3),
        (9, 0, 3),
    ):
        assert report.block(found, pixels) == side


def test_pixels_of_the_page_are_averages_of_blocks() -> None:
    x = torch.arange(2 * 15.0).view(2, 1, 3, 5)
    assert torch.equal(report.reduce(x, 15), x)
    found = report.reduce(x, 4)
    assert found.shape == (2, 1, 2, 3)
    assert found[0, 0, 0, 0] == (0 + 1 + 5 + 6) / 4 and found[0, 0, 1, 2] == 14
    measured = torch.ones(1, 3, 5)
    measured[0, :2, :2] = 0
    measured[0, 0, 2] = 0
    found = report.reduce((x * measured)[:1], 4, measured)
    assert bool(found[0, 0, 0, 0].isnan())
    assert found[0, 0, 0, 1] == pytest.approx((3 + 7 + 8) / 3) and found[0, 0, 1, 2] == 14


@pytest.mark.parametrize("bits", [8, 16])
def test_values_of_the_page(bits: int) -> None:
    """Least and largest to the bit; NaN and infinity are 0; a flat image has a step."""
    x = torch.tensor([0.25, 1.0, float("nan"), -0.5, float("inf")]).view(1, 1, 1, 5)
    plane = report.encode(x, bits)
    assert plane["shape"] == [1, 1, 1, 5] and plane["bits"] == bits and plane["low"] == -0.5
    most = 2**bits - 1
    assert plane["step"] == pytest.approx(1.5 / (most - 1))
    levels = np.frombuffer(base64.b64decode(plane["data"]), f"<u{bits // 8}").tolist()
    assert levels == [round(0.75 / plane["step"]) + 1, most, 0, 1, 0]
    flat = report.encode(torch.full((1, 1, 1, 2), 0.5), bits)
    assert (flat["low"], flat["step"]) == (0.5, 1.0) and decoded(flat).tolist() == [[[[0.5, 0.5]]]]
    none = report.encode(torch.full((1, 1, 1, 2), float("nan")), bits)
    assert (none["low"], none["step"]) == (0.0, 1.0) and bool(decoded(none).isnan().all())


def test_what_the_page_says_that_it_lacks() -> None:
    end = "The samples themselves (posterior.npz of a run) are as they were drawn."
    cut = "The page holds the first 3 of 4 images."
    blocks = "Reduced for this page: each pixel here is the average of 2 x 2 pixels of the result."
    rounded = "Values are rounded to 254 steps over their range to keep the page small."
    assert report.notes(16, 1, 4, 4) == []
    assert report.notes(16, 1, 3, 4) == [cut, end]
    assert report.notes(8, 1, 4, 4) == [rounded, end]
    first, *rest = report.notes(16, 2, 4, 4)
    assert first.startswith(blocks) and rest == [end]
    assert len(report.notes(8, 2, 3, 4)) == 4


def test_the_noise_of_what_was_measured() -> None:
    """The root mean square is over measured pixels alone; one level is called sigma."""
    operator = MaskBox((1, 4, 4), 2, 2)
    y = torch.zeros(1, 1, 4, 4)
    y[..., 0, :] = 0.5
    problem = Problem(operator, Poisson(50.0), y)
    measured = problem.measured()[0]
    variance = problem.variance()[0][measured != 0]
    told = report.describe_noise(problem, 0, measured)
    assert told.startswith(
        f"Poisson, root mean square sigma = {float(variance.mean()) ** 0.5:.3g} ([0,1])"
    )
    assert report.plain(float("-inf")) == "-inf" and report.plain(2.0) == 2.0
    one = Problem(operator, Gaussian(0.1), torch.zeros(2, 1, 4, 4))
    for b in range(2):
        assert report.describe_noise(one, b, measured).startswith("Gaussian, sigma = 0.1 ([0,1])")


def test_every_plane_of_every_image_counts_for_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images of three samples, baseline, truth and y of 20 pixels: 240 numbers of two bytes."""
    truth, posterior = made(Denoise((1, 4, 5)), samples=3, images=2)
    for most, bits in ((480, 16), (479, 8)):
        monkeypatch.setattr(report, "MOST_BYTES", most)
        data = report.page_data(posterior, truth, None, None, "", "")
        assert data["images"][1]["samples"]["bits"] == bits
    monkeypatch.setattr(report, "MOST_BYTES", 400)  # 200 numbers, without the truth
    data = report.page_data(posterior, None, None, None, "", "")
    assert data["images"][0]["samples"]["bits"] == 16


def test_averages_of_pixels_have_no_calibrated_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration is of pixels, and of samples without fills: the page tells of neither's factors."""
    _, posterior = made(Denoise((1, 4, 5)), samples=4, images=1)
    key = Key("a", "b", "c", "d", (1, 4, 5), 4)
    adjustment = Adjustment(key, 64, "64 images", {"mean": {0.5: 0.75, 0.9: 2.5}}, 1.0, 0.1)

    def shown(given: Posterior) -> Any:
        return report.page_data(given, None, None, None, "", "")["intervals"]

    plain, calibrated = shown(posterior), shown(replace(posterior, adjustment=adjustment))
    assert plain != calibrated
    assert shown(replace(posterior, filled=(True,))) == report.intervals(4, None, True) != plain
    assert shown(replace(posterior, filled=(False,))) == plain
    monkeypatch.setattr(report, "MOST_BYTES", 100)
    assert shown(replace(posterior, adjustment=adjustment)) == plain
