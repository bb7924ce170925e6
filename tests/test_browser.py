"The teaching material as a reader meets it: real pages in a real browser. Skipped, with the reason, where there is none."
import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install -e ".[dev]"')


@pytest.fixture(scope='module')
def browser():
    "Chromium: Playwright's own, or the system's"
    with playwright.sync_playwright() as p:
        found = [None] + [path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))]
        quiet = ['--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run', *(['--no-sandbox'] if hasattr(os, 'geteuid') and os.geteuid() == 0 else [])]
        for path in found:
            try: b = p.chromium.launch(executable_path=path, args=quiet); break
            except playwright.Error: b = None
        if b is None: pytest.skip('no Chromium: playwright install chromium, or install chromium with the system')
        yield b
        b.close()


@pytest.fixture
def page(browser):
    "A page that remembers what its console complained of, and which other machines it asked for anything"
    context = browser.new_context(viewport=dict(width=1280, height=900)); page = context.new_page(); page.set_default_timeout(180_000); page.complaints, page.strangers = [], []
    page.on('console', lambda m: page.complaints.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: page.complaints.append(str(e)))
    page.on('request', lambda r: page.strangers.append(r.url) if r.url.startswith('http') and '127.0.0.1' not in r.url and 'fontawesome' not in r.url else None)
    yield page
    context.close()


def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]


def serve(command, port, folder, seconds=120):
    "A server that listens; the caller ends it"
    env = os.environ | {k: str(folder/k) for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTER_DATA_DIR', 'IPYTHONDIR')} | dict(OMP_NUM_THREADS='1', I2V_RUNS=str(folder/'runs'))
    log = open(folder/'server.log', 'w'); p = subprocess.Popen([sys.executable, '-m', *command], cwd=folder, env=env, stdout=log, stderr=log)
    for _ in range(4*seconds):
        try: socket.create_connection(('127.0.0.1', port), timeout=2).close(); return p
        except OSError: time.sleep(.25)
        if p.poll() is not None: break
    p.kill(); raise AssertionError((folder/'server.log').read_text()[-3000:])


def end(server):
    "Asks a server to end, then insists"
    server.terminate()
    try: server.wait(20)
    except subprocess.TimeoutExpired: server.kill(); server.wait()


@pytest.fixture
def folder(tmp_path):
    "An empty folder with the notebook in it: what a reader saves goes there"
    shutil.copy(ROOT/'nbs'/'play.ipynb', tmp_path); (tmp_path/'runs').mkdir(); return tmp_path


def look(page, name):
    "The pixels of a screen, (H, W, 4)"
    url = page.locator(f'.{name} canvas').evaluate('c => c.toDataURL()')
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))))


def settle(page, name, before=None, seconds=30):
    "Waits until the note under a screen is another one than `before`; returns it"
    for _ in range(10*seconds):
        note = page.locator(f'.{name} > div').last.inner_text()
        if note and note != before: return note
        page.wait_for_timeout(100)
    raise AssertionError(f'{name} still says {before!r}')


def play(page):
    "Moves what can be moved on an open play page, as a hand would, and looks at what changes"
    note = settle(page, 'play-drag', seconds=120); before = look(page, 'play-drag')
    plane = page.locator('.play-plane canvas'); plane.scroll_into_view_if_needed(); box = plane.bounding_box()
    page.mouse.move(box['x'] + 30, box['y'] + 30); page.mouse.down(); page.mouse.move(box['x'] + 140, box['y'] + 60, steps=4); page.mouse.up()
    note = settle(page, 'play-drag', note); assert 'nu[' in note and not np.array_equal(look(page, 'play-drag'), before)
    plane.focus(); page.keyboard.press('ArrowLeft'); settle(page, 'play-drag', note)
    note = settle(page, 'play-mix', seconds=60); handle = page.locator('.play-part .noUi-handle'); handle.focus(); page.keyboard.press('ArrowRight'); assert 't = 0.5' in note
    assert 't = 0.52' in settle(page, 'play-mix', note)
    note = settle(page, 'play-aim'); ring = page.locator('.play-aim canvas'); ring.scroll_into_view_if_needed(); box = ring.bounding_box()
    page.mouse.click(box['x'] + 40, box['y'] + 90); other = settle(page, 'play-aim', note); assert other.split(',')[0] != note.split(',')[0] and 'cm to the right' in other
    note = settle(page, 'play-walk'); page.locator('.play-block .noUi-handle').focus(); page.keyboard.press('End')
    for _ in range(50):
        if settle(page, 'play-walk', note).startswith('after 20 of 20'): break
        page.wait_for_timeout(100)
    else: raise AssertionError('the walk did not reach the last block')


def upload(page, folder):
    "Drops in a photo, orange all over: every film that begins at the scene's start frame follows, in colour (films play, so that two looks at one always differ)"
    screens = 'play-mix', 'play-transfer'; Image.new('RGB', (300, 200), (230, 120, 20)).save(folder/'photo.jpg')
    for name in screens: settle(page, name)
    hue = lambda name: look(page, name)[..., :3].mean((0, 1)); before = {name: hue(name) for name in screens}
    with page.expect_file_chooser() as chooser: page.locator('.play-photo').click()
    chooser.value.set_files(folder/'photo.jpg'); page.get_by_text('photo.jpg, at 32 x 32 pixels').wait_for()
    for _ in range(300):
        if all(np.abs(hue(name) - before[name]).max() > 8 for name in screens): return
        page.wait_for_timeout(100)
    raise AssertionError('the films do not follow the photo')



def test_jupyterlab_runs_play(page, folder):
    pytest.importorskip('jupyterlab'); port = free_port()
    server = serve(['jupyterlab', '--no-browser', f'--ServerApp.port={port}', '--IdentityProvider.token=', '--expose-app-in-browser', '--allow-root', f'--ServerApp.root_dir={folder}'], port, folder)
    try:
        page.goto(f'http://127.0.0.1:{port}/lab/tree/play.ipynb'); page.locator('.jp-Notebook').wait_for(); page.locator('#jp-main-statusbar').get_by_text('Idle').wait_for(); page.complaints.clear()        # Lab may ask for the kernel before it is there
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        play(page); upload(page, folder)
        assert page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
        assert page.complaints == [] and page.strangers == []
    finally: end(server)


def test_voila_serves_play(page, folder):
    pytest.importorskip('voila', reason='voila is not installed: pip install -e ".[play]"'); port = free_port()
    server = serve(['voila', 'play.ipynb', '--no-browser', f'--port={port}'], port, folder)
    page.route('**/*fontawesome*/**', lambda r: r.fulfill(body='', content_type='text/css'))      # Voila's own template asks a network for its icons
    try:
        page.goto(f'http://127.0.0.1:{port}/'); play(page)
        assert page.complaints == [] and page.strangers == []
    finally: end(server)


def test_web_edition_sets_formulas_and_finds_words_offline(browser, page, tmp_path):
    "Opened from the disk, as a folder that was copied to a stick"
    subprocess.run([sys.executable, '-c', f'from i2v_paper.site import build; build({str(tmp_path)!r}, only=("index", "08_losses", "10_flow"), report=False)'], cwd=ROOT, check=True, capture_output=True)
    page.context.set_offline(True); page.goto((tmp_path/'index.html').as_uri()); page.locator('#search').fill('ActNorm'); first = page.locator('#found a').first
    assert 'ActNorm' in first.inner_text(); first.click(); page.wait_for_url('**/10_flow.html#*'); assert page.locator('h2', has_text='ActNorm').first.is_visible()
    box = lambda selector: page.locator(selector).first.bounding_box(); shown = page.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect()).filter(r => r.width < 2 || r.height < 5).length")
    assert page.locator('math').count() > 30 and shown == 0 and '$$' not in page.locator('main').inner_text() and box('math mfrac')['height'] > 1.3*box('math mi')['height']
    assert page.evaluate("document.fonts.ready.then(() => document.fonts.check('16px \"Site Math\"'))")                    # the font came with the site
    page.set_viewport_size(dict(width=390, height=800))
    for name in ('index', '08_losses', '10_flow'):
        page.goto((tmp_path/f'{name}.html').as_uri()); page.wait_for_load_state()
        assert page.evaluate('document.documentElement.scrollWidth') <= 390 and not page.locator('nav ul').first.is_visible() and page.locator('h1').is_visible()      # nothing wider than a phone; the contents are folded
    assert page.locator('img').evaluate_all('all => all.every(i => i.alt.length > 3)') and page.complaints == [] and page.strangers == []
