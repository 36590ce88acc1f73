"""The page of the button server: read and pressed in a real browser, and checked by axe-core."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has none
from playwright.sync_api import Locator, Page, expect

from demo.process import wait_until
from tests.browser.conftest import OpenPage
from tests.browser.parts import TOKEN, ButtonServer, Home

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 800}
# Old enough to be no news, whatever its state.
AN_HOUR_MS = 3_600_000

expect.set_options(timeout=10_000)


@pytest.fixture(scope="module")
def server(house: Home) -> ButtonServer:
    return house.button_server(confirm_timeout=1.0)


@pytest.fixture
def page(server: ButtonServer, open_page: OpenPage) -> Iterator[Page]:
    """Open the page on a phone, and look at what its developers would see, too."""
    page = open_page("about:blank", viewport=PHONE)
    complaints: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda each: complaints.extend([each.text] * (each.type == "error")))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
    page.goto(server.url)
    expect(plug(page, "lamp")).to_be_visible()
    yield page
    assert asked == {server.url}  # no third party
    for complaint in complaints:  # the browser notes every answer of 400 and above
        assert complaint.startswith("Failed to load resource: "), complaint


def plug(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name))


def button(page: Page, name: str, text: str) -> Locator:
    """Find a button as a screen reader does: by the group's name and its own."""
    return page.get_by_role("group", name=name).get_by_role("button", name=text, exact=True)


def set_relay(house: Home, name: str, *, closed: bool) -> None:
    """Bring a plug into a state by hand."""
    if house.switches[name].relay is not closed:
        house.switches[name].press_button()


# --- What it shows ------------------------------------------------------------------------------


def test_it_shows_each_plug_and_follows_it(page: Page, house: Home) -> None:
    set_relay(house, "lamp", closed=True)
    lamp = plug(page, "lamp")
    expect(lamp).to_contain_text("Is on")
    expect(lamp).to_contain_text(re.compile(r"\d+\.\d\sW"))
    expect(lamp).to_contain_text("Read just now.")
    house.switches["lamp"].press_button()
    expect(lamp).to_contain_text("Is off")
    expect(lamp).to_contain_text("0.0\u00a0W")
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings == sorted(headings)
    assert {"freezer", "lamp", "tv"} <= set(headings)


def test_it_plots_the_minutes_before_it_was_opened(page: Page, server: ButtonServer) -> None:
    lamp = plug(page, "lamp")
    expect(lamp).to_contain_text(re.compile(r"Last 10 minutes: \d+\.\d\sW to \d+\.\d\sW"))
    wait_until(lambda: lamp.locator(".line").get_attribute("d"), 10, "line")
    line = lamp.locator(".line").get_attribute("d") or ""
    assert re.fullmatch(r"(M[-\d.]+ [\d.]+(L[-\d.]+ [\d.]+)*h0)+", line)
    assert server.states()["lamp"]["power"] is not None


def test_it_says_that_a_plug_is_offline(page: Page, house: Home) -> None:
    set_relay(house, "tv", closed=True)
    tv = plug(page, "tv")
    expect(tv).to_contain_text("Is on")
    house.switches["tv"].set_fault("refused")
    try:
        expect(tv).to_contain_text("Offline: it does not answer. Last read", timeout=20_000)
        expect(tv).to_contain_text("Was on")
        for text in ("On", "Off"):
            expect(button(page, "tv", text)).to_have_attribute("aria-pressed", "false")
        expect(tv.locator(".power")).to_be_empty()
    finally:
        house.switches["tv"].clear_fault()
    expect(tv).to_contain_text("Is on", timeout=20_000)


def test_it_says_that_there_is_no_news_of_a_plug(page: Page, house: Home) -> None:
    """A plug whose reader is gone was online to the last."""
    time = house.now_ms() - AN_HOUR_MS
    house.client.publish("@update/shed/monitoring/relay", {"value": 1, "unit": "", "time": time})
    shed = plug(page, "shed")
    expect(shed).to_contain_text("No news of it. Last read 1\u00a0h ago.")
    expect(shed).to_contain_text("Was on")
    expect(button(page, "shed", "On")).to_have_attribute("aria-pressed", "false")


def test_a_wrong_clock_of_the_phone_does_not_matter(
    server: ButtonServer, open_page: OpenPage
) -> None:
    page = open_page("about:blank", viewport=PHONE)
    page.clock.set_fixed_time("2001-01-01T00:00:00")
    page.goto(server.url)
    expect(plug(page, "lamp")).to_contain_text("Read just now.")


# --- Pressing -----------------------------------------------------------------------------------


def test_a_press_is_confirmed(page: Page, house: Home) -> None:
    set_relay(house, "lamp", closed=True)
    expect(button(page, "lamp", "On")).to_have_attribute("aria-pressed", "true")
    house.client.clear()
    button(page, "lamp", "Off").click()
    expect(plug(page, "lamp").get_by_role("status")).to_have_text("Confirmed: it is off.")
    assert [each.json["value"] for each in house.commands("lamp")] == ["open"]
    assert not house.switches["lamp"].relay
    expect(button(page, "lamp", "Off")).to_have_attribute("aria-pressed", "true")
    expect(button(page, "lamp", "On")).to_have_attribute("aria-pressed", "false")


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_is_enough(page: Page, house: Home, key: str) -> None:
    set_relay(house, "lamp", closed=True)
    expect(button(page, "lamp", "On")).to_have_attribute("aria-pressed", "true")
    target = button(page, "lamp", "Off")
    for _ in range(20):
        page.keyboard.press("Tab")
        if target.evaluate("node => node === document.activeElement"):
            break
    outline = target.evaluate("node => getComputedStyle(node).outlineStyle")
    assert outline == "solid"  # one sees where one is
    page.keyboard.press(key)
    expect(plug(page, "lamp")).to_contain_text("Confirmed: it is off.")
    assert not house.switches["lamp"].relay
    expect(target).to_be_focused()  # what is shown anew every second does not take it away


def test_it_says_that_a_plug_did_not_confirm(page: Page, house: Home) -> None:
    moves = house.moves()
    button(page, "freezer", "Off").click()
    status = plug(page, "freezer").get_by_role("status")
    expect(status).to_have_text("Switching off…")
    expect(status).to_have_text("Not confirmed: freezer did not confirm within 1 s.")
    assert house.moves() == moves
    expect(plug(page, "freezer")).to_contain_text("Is on")


def test_of_two_presses_the_latter_is_reported(page: Page, house: Home) -> None:
    set_relay(house, "lamp", closed=True)
    button(page, "lamp", "Off").click()
    button(page, "lamp", "On").click()
    expect(plug(page, "lamp").get_by_role("status")).to_have_text("Confirmed: it is on.")
    expect(button(page, "lamp", "On")).to_have_attribute("aria-pressed", "true")
    assert house.switches["lamp"].relay


# --- The token ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(house: Home) -> ButtonServer:
    return house.button_server(token=TOKEN)


def test_the_token_is_asked_for_once(guarded: ButtonServer, open_page: OpenPage) -> None:
    page = open_page(guarded.url)
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    expect(page.get_by_role("listitem")).to_have_count(0)

    field.fill("Schlüssel für €")  # which no header can carry
    page.keyboard.press("Enter")
    expect(page.locator("#token:invalid")).to_be_visible()
    field.fill("0000000000000000")
    page.keyboard.press("Enter")
    expect(page.get_by_text("That is not the token.")).to_be_visible()
    field.fill(TOKEN)
    page.keyboard.press("Enter")
    expect(plug(page, "lamp")).to_contain_text("Is o")
    expect(field).to_be_hidden()

    page.reload()
    expect(plug(page, "lamp")).to_contain_text("Is o")
    expect(field).to_be_hidden()
    assert TOKEN not in page.url + page.content()
    assert page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"

    another = open_page(guarded.url)
    expect(another.get_by_label("Token")).to_be_visible()


def test_after_too_many_wrong_tokens_it_waits(house: Home, open_page: OpenPage) -> None:
    server = house.button_server(token=TOKEN)
    page = open_page(server.url)
    for number in range(5):
        page.get_by_label("Token").fill(f"guess-number-{number}")
        with page.expect_response("**/plugs"):
            page.keyboard.press("Enter")
        expect(page.get_by_text("That is not the token.")).to_be_visible()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("too many wrong tokens")


# --- Trouble ------------------------------------------------------------------------------------


def test_it_outlives_the_server(house: Home, open_page: OpenPage) -> None:
    server = house.button_server()
    page = open_page(server.url)
    expect(plug(page, "lamp")).to_be_visible()
    server.stop()
    notice = page.locator("#notice")
    expect(notice).to_contain_text("No news from the button server since")
    button(page, "lamp", "Off").click()
    expect(plug(page, "lamp")).to_contain_text("No answer: nobody knows whether it has switched.")
    server.start()
    expect(notice).to_be_empty()
    expect(plug(page, "lamp")).to_contain_text("Read just now.")


def test_a_phone_that_sleeps_asks_for_nothing_and_wakes_up_at_once(page: Page, house: Home) -> None:
    set_relay(house, "lamp", closed=True)
    expect(plug(page, "lamp")).to_contain_text("Is on")
    asked: list[str] = []
    set_hidden(page, hidden=True)
    page.wait_for_timeout(200)
    page.on("request", lambda request: asked.append(request.url))
    house.switches["lamp"].press_button()
    page.wait_for_timeout(2500)
    assert asked == []
    set_hidden(page, hidden=False)
    expect(plug(page, "lamp")).to_contain_text("Is off", timeout=900)  # sooner than a poll comes


def set_hidden(page: Page, *, hidden: bool) -> None:
    """Do what a phone's browser does; one without a screen cannot be covered."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
            document.dispatchEvent(new Event('visibilitychange'));
        }""",
        hidden,
    )


# --- For everybody ------------------------------------------------------------------------------


LOOKS = {
    "phone-light": {"viewport": PHONE, "color_scheme": "light"},
    "phone-dark": {"viewport": PHONE, "color_scheme": "dark"},
    "desktop-light": {"viewport": DESKTOP, "color_scheme": "light"},
    "desktop-dark": {"viewport": DESKTOP, "color_scheme": "dark"},
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_axe_finds_nothing(
    house: Home, server: ButtonServer, open_page: OpenPage, look: dict[str, Any]
) -> None:
    set_relay(house, "lamp", closed=True)
    set_relay(house, "tv", closed=False)
    house.client.publish("@update/shed/monitoring/relay", {"value": 1, "unit": "", "time": 10**12})
    page = open_page(server.url, **look)
    expect(plug(page, "shed")).to_contain_text("No news of it.")
    button(page, "freezer", "Off").click()
    expect(plug(page, "freezer")).to_contain_text("Not confirmed")
    expect(plug(page, "lamp")).to_contain_text("Is on")
    expect(plug(page, "tv")).to_contain_text("Is off")
    assert violations(page) == []


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_axe_finds_nothing_where_the_token_is_asked_for(
    guarded: ButtonServer, open_page: OpenPage, look: dict[str, Any]
) -> None:
    page = open_page(guarded.url, **look)
    expect(page.get_by_label("Token")).to_be_visible()
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    """Return what axe-core objects to, by any of its rules."""
    found = Axe().run(page).response
    assert len(found["passes"]) > 10  # it has looked
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found["violations"]]


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_everything_has_its_place(server: ButtonServer, open_page: OpenPage, width: int) -> None:
    """Nothing to be scrolled sideways, and buttons large enough for a thumb."""
    page = open_page(server.url, viewport={"width": width, "height": 700})
    expect(plug(page, "lamp")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for each in page.get_by_role("button").all():
        box = each.bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["width"] >= 44


def test_without_scripts_it_says_so(server: ButtonServer, open_page: OpenPage) -> None:
    page = open_page(server.url, java_script_enabled=False)
    expect(page.get_by_text("This page needs JavaScript.")).to_be_visible()
