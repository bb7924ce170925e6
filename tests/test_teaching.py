"The teaching material outside of a browser: sizes of notebooks, fresh outputs, the site's own words, the handout."
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import anatomy

ROOT = anatomy.ROOT


def test_notebooks_have_the_sizes_of_good_ones():
    "Where the anchors are measured: cells of few lines, prose for the code, a check in every fifth cell at least"
    print(anatomy.table()); ours = {k.split(' (')[0]: r for k, r in anatomy.rows().items()}
    median, most, longest, total, markdown, words, checks, kB, seeds = ours['components']
    assert median <= 8 and most <= 30 and longest <= 70 and 100 <= total <= 400 and markdown >= .25 and words >= 2 and checks >= .2 and kB < 300
    for group in ('components', 'compared'): assert re.match(r'(\d+) of \1$', ours[group][8]) or int(ours[group][8].split()[0]) >= .7*int(ours[group][8].split()[-1]), ours[group][8]


@pytest.mark.parametrize('path', anatomy.with_outputs(), ids=lambda p: p.stem)
def test_no_output_is_older_than_its_code(path):
    noted = json.loads(anatomy.NOTES.read_text(encoding='utf-8'))
    assert noted.get(anatomy.key(path)) == anatomy.code_mark(path), f'the code of {path.name} has changed since its outputs were made: python tests/anatomy.py run {path.stem}'


def test_no_output_shows_a_folder_of_the_machine_that_made_it():
    bad = [p.name for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts
           and any(f in json.dumps([c.get('outputs') for c in json.loads(p.read_text(encoding='utf-8'))['cells']]) for f in ('/tmp/', f'{tempfile.gettempdir()}/', f'{Path.home()}/', f'{ROOT}/'))]
    assert not bad


def test_a_change_of_code_is_noticed_and_one_of_comments_is_not(tmp_path):
    path = tmp_path/'a.ipynb'; write = lambda s: path.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=s)]))); marks = []
    for s in ('x = 1', 'x = 1   # one', '#| fig-alt: "one"\nx = 1', 'x = 2'): write(s); marks.append(anatomy.code_mark(path))
    assert marks[0] == marks[1] == marks[2] != marks[3]


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The whole site, built by its command"
    out = tmp_path_factory.mktemp('site'); before = (ROOT/'nbs'/'_quarto.yml').read_text(encoding='utf-8')
    r = subprocess.run([sys.executable, '-c', f'from i2v_paper.site import build, quarto; build({str(out)!r}); print(quarto())'], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    assert r.stdout.strip() == before.strip(), 'nbs/_quarto.yml is not what the index says: python -m i2v_paper.site'
    return out


def test_site_has_all_notebooks_and_no_dead_link(site):
    pages = {p.relative_to(site).as_posix(): p.read_text(encoding='utf-8') for p in site.rglob('*.html')}
    assert {anatomy.key(p)[4:].replace('.ipynb', '.html') for p in anatomy.notebooks()} == {n for n in pages if not n.startswith('files/')}
    for name, text in pages.items():
        body = re.sub(r'<(pre|code)\b.*?</\1>', '', text, flags=re.S)
        for url in re.findall(r'(?:src|href)="([^"]+)"', body):
            place, _, at = url.partition('#'); target = (site/name).parent/place if place else site/name
            if re.match(r'(https?|mailto|data):', url): continue
            assert target.resolve().is_file(), f'{name} links {url}'
            if at and target.suffix == '.html': assert f'id="{at}"' in target.read_text(encoding='utf-8'), f'{name} links {url}'


def test_every_picture_has_words_and_nothing_comes_from_elsewhere(site):
    for page in site.rglob('*.html'):
        text = re.sub(r'<pre\b.*?</pre>', '', page.read_text(encoding='utf-8'), flags=re.S)
        assert not re.findall(r'<img(?![^>]*\balt="[^"]{4,}")[^>]*>', text), page.name
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="https?:', text), page.name
        assert 'name="viewport"' in text


def test_search_knows_the_words(site):
    sections = json.loads((site/'index.js').read_text(encoding='utf-8').removeprefix('const SECTIONS = ').removesuffix(';'))
    for word, page in (('ActNorm', '10_flow.html'), ('end effector', '13a_control.html'), ('SPADE', '05_decoder.html')):
        assert any(p == page and word.lower() in (h + w).lower() for p, _, _, h, w in sections), word
    assert len(sections) > 300 and (site/'index.js').stat().st_size < 1_500_000


def test_handout_tells_no_solution(tmp_path):
    import nbformat
    from i2v_paper.handout import is_solution, leaks, write_handout
    write_handout(tmp_path); n = 0
    for path in anatomy.notebooks():
        given, whole = (nbformat.read(root/path.relative_to(ROOT), 4) for root in (tmp_path, ROOT)); n += sum(map(is_solution, whole.cells))
        assert not any(map(is_solution, given.cells)) and leaks(given, whole) == []
    assert n >= 80 and (tmp_path/'exercises.md').read_text(encoding='utf-8').count('# your turn') == n
