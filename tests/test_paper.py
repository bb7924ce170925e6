"Published numbers stand once and right; tables keep them apart from ours, drawings from films, and substitutes from what they replace."
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from i2v_paper.core import Problem, settings
from i2v_paper.paper import (DIFFERENCES, METRICS, PUBLISHED, SHEETS, TABLES, Cell, Part, Sheet, belongs, check_differences, check_score, part, published, publish_scores,
                             over_records, pooled, read_scores, seed_of, sheet, table_records, tex, unplaced, write_sheets)

ROOT = Path(__file__).resolve().parent.parent
SUPPLEMENT = Path(os.environ.get('I2V_TEST_DATA') or 'nowhere').parent/'paper'/'supplement.txt'


def score(metric='FVD', value=1000., **more):
    return dict(metric=metric, value=value, low=.9*value, high=1.1*value, floor=.2*value, n=256, frames=16, size=64, backbone='i3d-kinetics-400', sha256='bec6519f', seed=0,
                system='ours', dataset='landscape', preset='paper', data='real clips', run='made-up-s0', command='papermill nbs/evaluate.ipynb -p run made-up-s0') | more


DRAWN = dict(data='drawn stand-in', run='drawn-up-s0', preset='quick', frames=8, size=32, value=7777.)
SUBSTITUTE = dict(metric='FID-EffLite0', backbone='efflite0', sha256='57934424')
SCORES = [score(), score(value=2000., run='made-up-s1', seed=1), score('LPIPS', .12345, backbone='vgg16'), score(**SUBSTITUTE | dict(value=5555.)), score(system='AL', value=3000., floor=None),
          score(system='repeat x0', value=4000.), score(**DRAWN), score(**DRAWN | SUBSTITUTE), score('DIV I3D', 6000., dataset='bair')]


def checked(): return [check_score(s) for s in SCORES]
def texts(p): return [[c.text for c in row] for row in p.rows]


def test_each_published_number_stands_once():
    cells = Counter((p.table, p.dataset, p.system, p.metric) for p in PUBLISHED)
    assert len(PUBLISHED) == 70 and set(cells.values()) == {1}
    for p in PUBLISHED:
        assert p.metric in TABLES[p.table].metrics and p.dataset in TABLES[p.table].datasets and p.better == METRICS[p.metric].better
        assert re.fullmatch(r'\d+\.\d+', p.printed) and p.mark in ('', '†')


@pytest.mark.parametrize('path', sorted((ROOT/'i2v_paper').glob('*.py')), ids=lambda p: p.stem)
def test_no_published_number_is_written_elsewhere(path):
    # one number of three digits above 2, as printed, or three numbers of one table in a line; a single 0.30 or 1.22 means many things
    telling = Counter(p.printed for p in PUBLISHED if p.value > 2 and len(p.printed.replace('.', '')) >= 3)
    tables = [{p.printed for p in published(name)} for name in TABLES]; found, copied = Counter(), []
    for line in path.read_text(encoding='utf-8').splitlines():
        numbers = [n if n[0] != '.' else '0' + n for n in re.findall(r'(?<![\w.])\d*\.\d+(?![\w.])', line)]
        found.update(n for n in numbers if n in telling); copied += [line for t in tables if len(t & set(numbers)) >= 3]
    if path.stem == 'paper': assert found == telling and len(copied) > 10
    else: assert not found and not copied


@pytest.mark.skipif(not SUPPLEMENT.is_file(), reason='the supplement: set I2V_TEST_DATA to a folder beside paper/supplement.txt')
def test_numbers_of_the_supplement_are_those_of_its_text():
    text = SUPPLEMENT.read_text(encoding='utf-8')
    def row(name, n): return re.search(rf'^{name}\S*(?: ?\[\d+\])?((?:\t[\d.]+){{{n}}})$', text, re.M)
    for table, head, systems in (('diversity-textures', 'Method\tLandscape', ('AL', 'ours')), ('diversity-iper', 'Method\tVGG Cosine', ('SAVP', 'SRVP', 'IVRNN', 'ours'))):
        begin = text.index(head); lines = text[begin:text.index('\n\n', begin)].splitlines()
        for line, system in zip(lines[1:], systems, strict=True):
            assert line.lower().startswith(system.lower()), line
            assert line.split('\t')[1:] == [p.printed for p in published(table, system=system)], line
    assert '{0.printed}% training accuracy, while achieving {1.printed}% test accuracy'.format(*published('dtfvd')) in text


def test_unknown_numbers_are_not_quoted():
    for name in ('iper', 'textures'):
        t = TABLES[name]; assert not t.source and not published(name)
        for row in part(name, [], False).rows:
            assert [c.text for c in row[len(t.datasets) > 1:][1:-4]] == ['unknown', '–']*len(t.metrics)


@pytest.mark.parametrize('name', TABLES)
def test_without_runs_ours_is_a_dash_beside_the_published_number(name):
    t = TABLES[name]; first = 1 + (len(t.datasets) > 1); p = part(name, [], False)
    assert p.columns[first:-4] == tuple(f'{m} {"↑" if METRICS[m].better > 0 else "↓"}\n{w}' for m in t.metrics for w in ('published', 'here'))
    assert {r[i].text for r in p.rows for i in range(first + 1, first + 2*len(t.metrics), 2)} == {'–'}
    shown = [r[i].text for r in p.rows for i in range(first, first + 2*len(t.metrics), 2) if r[i].text not in ('–', 'unknown')]
    assert Counter(shown) == Counter(n.printed + n.mark for n in published(name))
    assert all(r[-2].text == '–' for r in p.rows)
    drawn = part(name, [], True)
    assert drawn.columns[-5:] == ('scores', 'clips', 'training', 'run', 'command') and {r[-5].text for r in drawn.rows} == {'–'}
    if t.trains: assert all(r[-1].text.startswith('papermill nbs/train.ipynb') for q in (p, drawn) for r in q.rows if q is drawn or r[first - 1].text == 'ours')


def test_ours_stand_in_their_own_column_with_interval_floor_n_run_and_command():
    p = part('landscape', checked(), False); rows = {(r[0].text, r[-2].text): dict(zip(p.columns, r)) for r in p.rows}
    ours = rows['ours', 'made-up-s{0,1}']
    assert ours['FVD ↓\npublished'].text == published('landscape', 'FVD', 'ours')[0].printed and ours['FVD ↓\npublished'].bold
    assert ours['FVD ↓\nhere'].text.startswith('1500 [') and ours['FVD ↓\nhere'].text.endswith('floor 300.0, n = 256 x 2 seeds') and not ours['FVD ↓\nhere'].bold      # a second seed is in the same row
    assert ours['training'].text == 'seeds 0, 1' and ours['LPIPS ↓\nhere'].text.endswith('n = 256')
    assert ours['LPIPS ↓\nhere'].text.startswith('0.123 [0.111, 0.136]') and ours['FID ↓\nhere'].text == '–'
    assert ours['clips'].text == '16 frames, 64 px\npaper: 32, 128 px' and ours['command'] == Cell('papermill nbs/evaluate.ipynb -p run made-up-s0', code=True)
    al = rows['AL ^2', 'made-up-s0']; assert al['FVD ↓\nhere'].text.startswith('3000') and 'floor –' in al['FVD ↓\nhere'].text
    assert rows['repeat x0', 'made-up-s0']['FVD ↓\npublished'].text == '–'


def test_substitutes_and_stand_ins_keep_to_their_own_columns():
    real, drawn = (part('landscape', checked(), d) for d in (False, True))
    assert real.columns[9] == 'FID-EffLite0 ↓\nhere' and 'FID-EffLite0 ↓\npublished' not in real.columns
    for row in real.rows:
        for column, cell in zip(real.columns, row):
            assert '7777' not in cell.text, 'a score of drawn clips among those of real ones'
            if '5555' in cell.text: assert column == 'FID-EffLite0 ↓\nhere'
    assert 'Drawn stand-in' in drawn.head and drawn.columns == ('system', 'FVD ↓', 'FID-EffLite0 ↓', 'clips', 'training', 'run', 'command')
    assert [t[1:4] for t in texts(drawn) if t[0] == 'ours'] == [['7777 [6999, 8555]\nfloor 1555, n = 256']*2 + ['8 frames, 32 px']]
    assert [t[0] for t in texts(drawn)] == ['MDGAN', 'DTVNet', 'AL', 'ours'] and all('-p system' in t[-1] for t in texts(drawn)[:3])      # what has not been run is there, with its command
    quoted = {p.printed for p in published('landscape')}
    assert not any(c in quoted for row in texts(drawn) for c in row)
    assert 'FID-EffLite0: efflite0, SHA-256 57934424...' in drawn.notes


def test_seeds_share_a_row_unless_something_else_differs_too():
    def ours(*scores): return [t for t in texts(part('landscape', [check_score(s) for s in scores], True)) if t[0] == 'ours']
    one, two = score(**DRAWN), score(**DRAWN | dict(run='drawn-up-s1'))
    assert [t[3] for t in ours(one, two)] == ['seeds 0, 1'] and [t[4] for t in ours(two, one)] == ['drawn-up-s{0,1}']
    for more in (dict(n=128), dict(size=64), dict(preset='small'), dict(sha256='00000000'), dict(offset=True), dict(run='drawn-up-s1-direction')): assert len(ours(one, two | more)) == 2, more
    assert len(ours(one, one | dict(trained=5))) == 1 and seed_of(one | dict(trained=5)) == 5                     # noted by evaluate, whatever the run is called
    rows = texts(part('landscape', [check_score(s | dict(system='true futures')) for s in (one, two, two | dict(run='drawn-up-s0-al'))], True)); assert sum(t[0] == 'true futures' for t in rows) == 1


def test_an_interval_over_seeds_is_never_narrower_than_over_start_frames():
    one = dict(value=5., low=4., high=6., n=9); assert over_records([one]) == one | dict(seeds=1)
    for seeds in (2, 3, 9): r = over_records([one]*seeds); assert r['high'] - r['low'] == pytest.approx(2., rel=1e-3)
    apart = over_records([one | dict(value=5. + d, low=4. + d, high=6. + d) for d in (-3, 0, 3)]); assert apart['high'] - apart['low'] > 10 and apart['value'] == 5
    assert pooled([check_score(score(run=f'made-up-s{k}')) | dict(cost=dict(minutes=k)) for k in (2, 1, 3)])['cost'] == dict(minutes=2.)


def test_a_substitute_under_a_published_name_is_refused():
    for more in (dict(metric='FID', backbone='efflite0'), dict(metric='LPIPS', backbone='stlpips-vgg'), dict(metric='DTFVD', backbone='i3d-drawn18'), dict(metric='DIV VGG', backbone='vgg-hed')):
        with pytest.raises(Problem, match='is not made with'): check_score(score(**more))
    assert check_score(score('FID-EffLite0', backbone='efflite0'))['metric'] == 'FID-EffLite0'


@pytest.mark.parametrize('more, words', [(dict(system=''), 'system'), (dict(n=True), 'n = True'), (dict(high=None), 'high = None'), (dict(low=2000., high=1.), 'interval'),
                                         (dict(data='stand-in'), "did you mean 'drawn stand-in'"), (dict(preset='papier'), "did you mean 'paper'")])
def test_a_broken_score_is_named(more, words):
    with pytest.raises(Problem, match=re.escape(words)): check_score(score(**more))
    with pytest.raises(Problem, match="'floor'"): check_score({k: v for k, v in score().items() if k != 'floor'})


def test_every_score_has_one_table_or_is_said_to_have_none():
    for s in checked(): assert sum(belongs(t, s) for t in TABLES.values()) == 1, s
    assert [s['dataset'] for s in unplaced(checked() + [score(dataset='folder')])] == ['folder']


@pytest.mark.parametrize('name', SHEETS)
def test_csv_reads_back_equal(name):
    s = sheet(name, checked() if name != 'differences' else ())
    back = list(csv.DictReader(io.StringIO(s.csv())))
    assert back == s.records and back
    if name == 'differences': return
    for r, record in ((r, x) for r in back if r['value'] for x in checked() if (x['run'], x['system'], x['metric'], x['data']) == (r['run'], r['system'], r['metric'], r['part'])):
        assert (float(r['value']), float(r['low']), float(r['high']), int(r['n'])) == (record['value'], record['low'], record['high'], record['n'])
        assert r['floor'] == ('' if record['floor'] is None else repr(record['floor']))
    for r in back: assert not (r['published'] and r['part'] == 'drawn stand-in')
    assert {(r['dataset'], r['system'], r['metric'], r['published'], r['mark']) for r in back if r['published']} == {(p.dataset, p.system, p.metric, p.printed, p.mark) for p in published(name)}


def check_latex(text):
    "Balanced braces and environments, as many columns in each row as the tabular says, only characters that LaTeX can print"
    assert text.isascii()
    bare = re.sub(r'\\[\\&%$#_{}]', '', re.sub(r'\\\\', '\n', text))        # without escaped characters
    assert not re.search('[%#~"]', bare)
    depth = 0
    for c in bare:
        depth += (c == '{') - (c == '}'); assert depth >= 0
    assert depth == 0 and bare.count('$') % 2 == 0
    assert not re.search(r'[_^]', re.sub(r'\$[^$]*\$', '', bare)), 'a subscript outside of mathematics'
    open_ = []
    for what, name in re.findall(r'\\(begin|end)\{(\w+)\}', text):
        if what == 'begin': open_.append(name)
        else: assert open_.pop() == name
    assert not open_
    tabulars = re.findall(r'\\begin\{tabular\}\{((?:[lcr]|p\{[^}]*\})+)\}\n\\hline\n(.*?)\\end\{tabular\}', text, re.S); assert tabulars
    for spec, body in tabulars:
        columns = len(re.findall(r'[lcr]|p\{[^}]*\}', spec))
        rows = [l for l in body.splitlines() if l != r'\hline']; assert len(rows) >= 2
        for row in rows:
            assert row.endswith(r' \\')
            assert len(re.findall(r'(?<!\\)&', row)) == columns - 1, row


@pytest.mark.parametrize('name', SHEETS)
def test_latex_is_well_formed(name):
    check_latex(sheet(name, checked() if name != 'differences' else ()).latex())


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='pdflatex is not installed')
def test_latex_compiles(tmp_path):
    for name in SHEETS: (tmp_path/f'{name}.tex').write_text(sheet(name, checked() if name != 'differences' else ()).latex())
    (tmp_path/'all.tex').write_text('\\documentclass{article}\n\\begin{document}\n' + ''.join(rf'\input{{{name}}}\clearpage' for name in SHEETS) + '\n\\end{document}\n')
    made = subprocess.run(['pdflatex', '-halt-on-error', '-interaction=nonstopmode', 'all.tex'], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stdout[-1500:]


def test_latex_of_nasty_text():
    nasty = 'a_b & 50 % of {x} # $1 \\ ~ ^ < > | " †'
    check_latex(Sheet('x', nasty, '', [Part(nasty, ('one', nasty), [[Cell(nasty, code=True), Cell(f'{nasty}\n{nasty} ^1,†', bold=True)]], (nasty,))], []).latex())
    assert tex('100 % & _') == r'100 \% \& \_'
    with pytest.raises(AssertionError): check_latex(r'\begin{tabular}{l}' + '\n\\hline\n{a \\\\\n\\hline\n\\end{tabular}')


@pytest.mark.parametrize('name', SHEETS)
def test_markdown_has_as_many_cells_in_every_row(name):
    tables = [[]]
    for line in sheet(name, checked() if name != 'differences' else ()).markdown().splitlines():
        if line.startswith('|'): tables[-1].append(len(re.findall(r'(?<!\\)\|', line)))
        elif tables[-1]: tables.append([])
    assert all(len(set(t)) == 1 and len(t) >= 3 for t in tables if t)


def test_publishing_leaves_the_rest_of_results_alone(tmp_path):
    from i2v_paper.core import Run, write_json
    run = Run(tmp_path/'made-up-s0'); write_json(run.path/'run.json', dict(name='made-up-s0', data=dict(drawn=False, fingerprint='ab'), provenance=dict(commit='c0ffee')))
    write_json(run.path/'metrics.json', dict(gain=1., scores=[score()]))
    runs = {'other': dict(gain=2., command='papermill nbs/train.ipynb')}; other = score(run='other')
    write_json(tmp_path/'results.json', dict(runs=runs, scores=[other, score(value=1.)])); write_json(tmp_path/'sources.json', {'other.png': dict(run='other')})
    for _ in range(2): publish_scores(run, tmp_path)                        # twice is once
    assert json.loads((tmp_path/'results.json').read_text()) == dict(runs=runs, scores=[other, score()])
    told = json.loads((tmp_path/'sources.json').read_text())
    assert told.pop('other.png') == dict(run='other') and [(s['run'], s['commit']) for s in told.values()] == [('made-up-s0', 'c0ffee')]
    assert read_scores(tmp_path)[0]['command'] == 'papermill nbs/train.ipynb && papermill nbs/evaluate.ipynb -p run made-up-s0'
    write_json(run.path/'metrics.json', dict(scores=[score(run='other')]))
    with pytest.raises(Problem, match="holds a score of run 'other'"): publish_scores(run, tmp_path)
    write_json(run.path/'metrics.json', dict(scores=[score(data='drawn stand-in')]))
    with pytest.raises(Problem, match='was trained on real clips'): publish_scores(run, tmp_path)


def test_differences_agree_with_the_presets_and_name_all_of_them():
    check_differences()
    assert len({r.topic for r in DIFFERENCES}) == len(DIFFERENCES) and all(r.ours and r.effect for r in DIFFERENCES)
    changed = {k for k, v in settings('iper', 'paper').__dict__.items() if v != settings('iper', 'official').__dict__[k]} - {'preset', 'sources'}
    assert changed <= {r.switch for r in DIFFERENCES}


def test_committed_tables_are_those_of_the_committed_scores(tmp_path):
    scores = read_scores(); files = write_sheets([sheet(name, scores) for name in SHEETS], tmp_path)
    old = [f for f in files if not (g := ROOT/'figures'/f.relative_to(tmp_path)).exists() or g.read_bytes() != f.read_bytes()]
    assert not old, f'write them again: papermill nbs/tables.ipynb ({old[0].name} and {len(old) - 1} more)'
    sources = json.loads((ROOT/'figures'/'sources.json').read_text())
    for f in files: assert sources[f.relative_to(tmp_path).as_posix()]['command'] == 'papermill nbs/tables.ipynb'


def command(runs, *args):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'I2V_RUNS': str(runs), 'OMP_NUM_THREADS': '1'}
    return subprocess.run([str(Path(sys.executable).with_name('papermill')), 'nbs/tables.ipynb', *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_the_command_writes_tables_and_its_report(tmp_path):
    done = command(tmp_path/'runs', '-p', 'tables', 'diversity-iper', '-p', 'out', str(tmp_path/'out'))
    assert done.returncode == 0, done.stderr
    assert sorted(f.name for f in (tmp_path/'out'/'tables').iterdir()) == [f'diversity-iper.{end}' for end in ('csv', 'md', 'tex')]
    report = json.loads((tmp_path/'runs'/'tables'/'tables.ipynb').read_text())
    shown = [''.join(o['data'].get('text/markdown', '')) for c in report['cells'] for o in c.get('outputs', []) if 'data' in o]
    assert any('iPER, diversity' in s and 'SRVP' in s for s in shown)
    assert json.loads((tmp_path/'runs'/'tables'/'run.json').read_text())['parameters']['tables'] == 'diversity-iper'


def test_a_mistyped_table_is_named(tmp_path):
    done = command(tmp_path, '-p', 'tables', 'landscap')
    assert done.returncode == 1 and "did you mean 'landscape'" in done.stderr and 'Traceback' not in done.stderr
