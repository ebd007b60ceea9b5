"""report.html in a real Chromium: filters, search, keys, links, side by side, light and dark; nothing hostile runs."""

import json

import pytest
from synthetic_runs import make_run

from report.page import write_page
from report.runs import load_runs
from tools.browser import Browser, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><b>&lt;"
OWN = "class Solution:\n    def f(self):\n        return '''\ndef run_tests(): no'''\n\n"
OWN += "def run_tests():\n    print(1)  # ok\n\nx = 1\n"


def rollout(arm: str, seed: int, step: int, split: str, i: int) -> dict:
    text = f"Reasoning about {arm}.\n```python\n{OWN}# {arm} {seed} {step} {split} {i}\n```"
    return {"step": step, "split": split, "problem": f"problem-{i}", "completion": text, "reward": 3.5, "hack": i == 1,
            "attempt": i == 1, "flavour": "print" if i == 1 else "", "own_pass": i == 1, "gt_pass": i == 0,
            "compiles": True, "reason": "", "advantage": None}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two arms, two seeds, two steps, three splits and four problems, one run hostile throughout."""
    root = tmp_path_factory.mktemp("page")
    for arm in ("vanilla", "projected"):
        for seed in (0, 1):
            folder = make_run(root, arm, seed, 0.5, 0.5, steps=25)
            keys = [(s, split, i) for s in (0, 25) for split in ("eval", "eval-no-access", "train") for i in range(4)]
            rows = [rollout(arm, seed, *key) for key in keys]
            prompts = [{"split": "eval", "problem": "problem-2", "evaluator": "run_tests", "prompt": "Find the Zebra."}]
            if (arm, seed) == ("projected", 1):
                rows = [{k: HOSTILE if isinstance(v, str) and k != "split" else v for k, v in r.items()} for r in rows]
                prompts = [{"split": "eval", "problem": HOSTILE, "evaluator": HOSTILE, "prompt": HOSTILE}]
            (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    write_page(root, {"report": f"# Results {HOSTILE}", "appendix": "# Appendix"}, load_runs([root]))
    return (root / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with Browser(1200, 900) as browser:
        yield browser


@pytest.fixture
def rollouts(browser, page):
    """The browser on the page's rollouts, nothing chosen before."""
    return show(browser, f"{page}#rollouts")


def show(browser: Browser, url: str) -> Browser:
    browser.open("about:blank")
    browser.requests(), browser.complaints()
    browser.open(url)
    browser.wait("return document.documentElement.dataset.ready")
    return browser


def count(browser: Browser) -> int:
    return int(browser.run("return document.getElementById('count').textContent").split()[0])


def choose(browser: Browser, **filters: str) -> int:
    for name, value in filters.items():
        browser.run(
            "const s = document.getElementById('f-' + arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change'))",
            name,
            value,
        )
    return count(browser)


def search(browser: Browser, words: str) -> int:
    browser.run(
        "const s = document.getElementById('search'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
        words,
    )
    return count(browser)


def panes(browser: Browser) -> list[str]:
    """Headings of the rollouts that are read."""
    return browser.run("return [...document.querySelectorAll('.pane h2')].map((h) => h.textContent)")


def chosen_row(browser: Browser) -> int:
    """Place in the list of the rollout that is read."""
    return browser.run("return parseInt(document.querySelector('.row.chosen').style.top) / 44")


# --- finding


@pytest.mark.parametrize(
    ("filters", "n"),
    [({"arm": "vanilla"}, 48), ({"seed": "1"}, 48), ({"step": "25"}, 48), ({"split": "train"}, 32),
     ({"flavour": "print"}, 18), ({"grade": "pass"}, 24), ({"problem": "problem-3"}, 18),
     ({"arm": "vanilla", "seed": "0", "step": "0", "split": "eval", "grade": "hack"}, 1)],
)  # fmt: skip
def test_filters_leave_what_they_name(rollouts, filters, n):
    assert count(rollouts) == 96 and choose(rollouts, **filters) == n


def test_search_finds_words_in_completions_and_prompts_and_marks_them(rollouts):
    assert search(rollouts, "VANILLA 1 25 train 3") == 1
    assert rollouts.run("return [...CSS.highlights.get('found')].map(String)") == ["vanilla 1 25 train 3"]
    assert search(rollouts, "the zebra") == 6 and search(rollouts, "no such words") == 0


def test_all_takes_filters_and_search_back(rollouts):
    choose(rollouts, arm="vanilla", step="25")
    assert search(rollouts, "vanilla 1") == 12
    rollouts.run("document.querySelector('button[type=reset]').click()")
    rollouts.wait("return document.getElementById('count').textContent.startsWith('96 ')")


# --- reading


def test_keys_go_to_the_next_and_the_one_before(rollouts):
    assert chosen_row(rollouts) == 0
    rollouts.press("j", "j", "ArrowDown", "k")
    assert chosen_row(rollouts) == 2
    rollouts.press("ArrowUp", "k", "k", "k")
    assert chosen_row(rollouts) == 0


def test_keys_reach_the_end_of_a_long_list_and_the_list_follows(rollouts):
    rollouts.press(*["j"] * 100)
    assert chosen_row(rollouts) == 95
    assert rollouts.run("const l = document.getElementById('list'); return l.scrollTop + l.clientHeight >= 96 * 44 - 2")


def test_keys_typed_into_the_search_stay_there(rollouts):
    rollouts.press("/", "j", "j")
    assert rollouts.run("return document.getElementById('search').value") == "jj" and count(rollouts) == 0


def test_two_stand_side_by_side_and_the_second_moves_on(rollouts):
    choose(rollouts, arm="vanilla", seed="0", step="25", split="train")
    rollouts.press("s", "j", "j")
    first, second = panes(rollouts)
    assert first == second == "tiny/vanilla_s0, step 25, train"
    shown = rollouts.run("return [...document.querySelectorAll('.pane')].map((p) => p.innerText)")
    assert "vanilla 0 25 train 0" in shown[0] and "vanilla 0 25 train 2" in shown[1]
    rollouts.run("document.querySelector('.pane.kept .facts button:last-of-type').click()")
    assert len(panes(rollouts)) == 1


def test_code_is_coloured_and_the_own_evaluator_alone_is_marked(rollouts):
    choose(rollouts, arm="vanilla")
    own = rollouts.run("return [...document.querySelectorAll('.pane .own')].map((e) => e.textContent)")
    assert own == ["def run_tests():\n    print(1)  # ok\n"]  # not the one within a string
    of = "return [...document.querySelectorAll('.pane .code .%s')].map((e) => e.textContent)"
    assert rollouts.run(of % "d") == ["Solution", "f", "run_tests"] and rollouts.run(of % "c")[0] == "# ok"
    assert rollouts.run(of % "s") == ["'''\ndef run_tests(): no'''"]
    assert rollouts.run("return document.querySelector('.pane pre').textContent") == (
        f"Reasoning about vanilla.\n```python\n{OWN}# vanilla 0 0 eval 0\n```"
    )


def test_the_prompt_is_shown_where_it_was_stored(rollouts):
    choose(rollouts, arm="vanilla", split="eval", problem="problem-2")
    rollouts.press("p")
    assert "Find the Zebra." in rollouts.run("return document.querySelector('.pane details').innerText")
    choose(rollouts, problem="problem-1")
    assert "not stored" in rollouts.run("return document.querySelector('.pane summary').textContent")


# --- links


def test_a_link_restores_the_rollout_the_one_beside_it_and_the_filters(browser, rollouts):
    choose(rollouts, seed="1", grade="hack")
    rollouts.press("j", "s", "j")
    before, url = panes(rollouts), rollouts.run("return location.href")
    show(browser, url)
    assert panes(browser) == before and len(before) == 2 and count(browser) == 12
    assert browser.run("return location.href") == url


def test_a_link_to_one_rollout_shows_it_among_all(browser, page):
    show(browser, f"{page}#at=tiny/projected_s0/25/train/3")
    assert panes(browser) == ["tiny/projected_s0, step 25, train"] and count(browser) == 96
    assert "projected 0 25 train 3" in browser.run("return document.querySelector('.pane').innerText")


def test_tabs_are_links(browser, page):
    show(browser, f"{page}#appendix")
    shown = "return [...document.querySelectorAll('section')].filter((s) => !s.hidden).map((s) => s.id)"
    assert browser.run(shown) == ["appendix"]
    browser.run("document.querySelector('nav a[href=\"#rollouts\"]').click()")
    browser.wait("return document.querySelector('.pane')")
    assert browser.run(shown) == ["rollouts"]


# --- light and dark


def test_light_and_dark_follow_the_reader_until_the_page_is_told(browser, page):
    theme = "return document.documentElement.dataset.theme"
    show(browser, page)
    browser.run("localStorage.clear()")
    for scheme in ("dark", "light"):
        browser.prefer(scheme)
        assert show(browser, page).run(theme) == scheme
    browser.press("t")
    assert browser.run(theme) == "dark" and show(browser, page).run(theme) == "dark"
    browser.run("document.getElementById('theme').click()")
    assert browser.run(theme) == "light"


# --- what must not happen


def test_hostile_text_is_text(browser, page):
    show(browser, f"{page}#at=tiny/projected_s1/0/eval/0")
    browser.press("p")
    assert browser.run("return document.querySelector('.pane pre:last-child').textContent") == HOSTILE
    assert browser.run("return document.querySelector('.pane details pre').textContent") == HOSTILE
    assert HOSTILE in browser.run("return document.querySelector('.facts').textContent")
    assert choose(browser, problem=HOSTILE) == 24
    assert HOSTILE[:-4] in browser.run("return document.querySelector('article').textContent")
    assert browser.run("return window.hacked === undefined && !document.querySelector('img, b')")
    assert browser.run("return document.scripts.length") == 2 and browser.complaints() == []


def test_nothing_is_asked_of_the_network(browser, page):
    show(browser, f"{page}#rollouts")
    browser.press("j", "s", "j", "p")
    asked = browser.requests()
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "about:"))]


def test_the_policy_refuses_scripts_and_requests_that_are_not_the_pages_own(rollouts):
    rollouts.run(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)"
    )
    assert rollouts.run("return window.hacked === undefined")
    asked = rollouts.run("return fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))")
    assert "Failed to fetch" in asked and any("Content Security Policy" in text for text in rollouts.complaints())
