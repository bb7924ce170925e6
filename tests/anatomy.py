"""How the notebooks are built, in numbers, beside those of the projects that we learn from; and whether outputs are as new as the code.

python tests/anatomy.py             the table
python tests/anatomy.py run NAME    executes notebooks in place, cleans them, and notes which code their outputs are of
python tests/anatomy.py note NAME   only notes it, for notebooks that were executed by other means
"""
import hashlib
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTES = Path(__file__).with_name('outputs.json')
GROUPS = {'components': r'nbs/\d\d[a-z]?_', 'compared': r'nbs/compared/', 'data sets': r'nbs/datasets/', 'entry points': r'nbs/[a-z]+\.ipynb$'}

# medians per notebook, measured from the newest notebooks of each project (22, 19, 62, 43, 15 and 69 files): lines per code cell median, 90th percentile, longest; lines a notebook; share of Markdown cells; words of prose per code line; share of code cells that are checks; kB; notebooks that set a seed
ANCHORS = {'fastcore': (4, 12, 52, 284, .30, 2.1, .34, 30, '2 of 22'), 'nbdev': (6, 20, 63, 198, .28, 1.4, .22, 22, '-'), 'fastai': (4, 13, 179, 166, .29, 2.0, .24, 30, '4 of 62'),
           'miniai (course22p2)': (2, 9, 174, 158, .18, .9, .01, 401, '32 of 43'), 'UvA DL tutorials': (8, 33, 94, 408, .56, 9.2, .02, 524, '15 of 15'), 'udlbook': (8, 24, 159, 131, .37, 2.0, 0., 13, '36 of 69')}
HEADS = ('', 'lines per code cell: median', '90 %', 'longest', 'code lines', 'Markdown cells', 'words per code line', 'check cells', 'kB', 'seeds')
CHECK = re.compile(r'(?:^|[;:])\s*(assert\b|test_\w+\(|check_\w+\()', re.M)
SEED = re.compile(r'seed|default_rng|step_generator|Generator\(')


def notebooks(): return sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
def key(path): return path.relative_to(ROOT).as_posix()
def read(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def quantile(values, q): return sorted(values)[min(int(q*len(values)), len(values) - 1)]


def measure(path) -> dict:
    "What a notebook is made of; directives and blank lines are no code, formulas and code in prose are no words"
    cells = read(path); code = [source(c) for c in cells if c['cell_type'] == 'code']; prose = '\n'.join(source(c) for c in cells if c['cell_type'] == 'markdown')
    lines = [n for s in code if (n := len([l for l in s.splitlines() if l.strip() and not l.startswith('#|')]))]
    words = len(re.findall(r"[A-Za-z][\w'-]*", re.sub(r'```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`', '', prose, flags=re.S)))
    return dict(lines=lines, total=sum(lines), markdown=sum(c['cell_type'] == 'markdown' for c in cells)/len(cells), words=words/max(sum(lines), 1), checks=sum(bool(CHECK.search(s)) for s in code), share=sum(bool(CHECK.search(s)) for s in code)/max(len(code), 1),
                kB=path.stat().st_size/1000, seeds=bool(SEED.search('\n'.join(code))))


def rows(paths=None) -> dict:
    "The numbers of the groups of notebooks, medians per notebook as the anchors'"
    out = {}
    for group, pattern in GROUPS.items():
        found = [measure(p) for p in paths or notebooks() if re.match(pattern, key(p))]; every = [n for m in found for n in m['lines']]; med = lambda k: statistics.median(m[k] for m in found)
        out[f'{group} ({len(found)})'] = (statistics.median(every), quantile(every, .9), max(every), med('total'), med('markdown'), med('words'), med('share'), med('kB'), f"{sum(m['seeds'] for m in found)} of {len(found)}")
    return out


def table() -> str:
    "Ours above, the anchors below, as Markdown"
    text = lambda name, r: f'| {name} | {r[0]:g} | {r[1]:g} | {r[2]} | {r[3]:.0f} | {r[4]:.0%} | {r[5]:.1f} | {r[6]:.0%} | {r[7]:.0f} | {r[8]} |'
    return '\n'.join(['| ' + ' | '.join(HEADS) + ' |', '|---' + '|--:'*(len(HEADS) - 1) + '|', *(text(f'**{k}**', r) for k, r in rows().items()), *(text(k, r) for k, r in ANCHORS.items())])


def code_mark(path) -> str:
    "A fingerprint of a notebook's code, the same under every Python; comments, the words of a picture for who cannot see it (fig-alt), and empty lines do not count"
    bare = lambda l: re.sub(r"""\s+#\s[^'"]*$""", '', l.rstrip())
    lines = [bare(l) for c in read(path) if c['cell_type'] == 'code' for l in source(c).splitlines() if l.strip() and not re.match(r'\s*#(?!\|)|#\|\s*fig-alt:', l)]
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:12]


def with_outputs(): return [p for p in notebooks() if any(c.get('outputs') for c in read(p))]


def note(paths):
    "Notes that the outputs of these notebooks are of their code as it is now"
    old = json.loads(NOTES.read_text(encoding='utf-8')) if NOTES.exists() else {}; there = {key(p) for p in with_outputs()}
    new = {k: v for k, v in old.items() if k in there} | {key(p): code_mark(p) for p in paths}; NOTES.write_text(json.dumps(new, indent=0, sort_keys=True) + '\n', encoding='utf-8')


def main(argv):
    if not argv: print(table()); return
    if argv[0] not in ('run', 'note') or not argv[1:]: raise SystemExit(__doc__)
    by = {p.stem: p for p in notebooks()}
    if unknown := [n for n in argv[1:] if n not in by]: raise SystemExit(f'there is no notebook {unknown[0]}')
    for n in argv[1:]:
        if argv[0] == 'run':
            subprocess.run([sys.executable, '-m', 'nbconvert', '--to', 'notebook', '--execute', '--inplace', '--ExecutePreprocessor.timeout=1200', '--ExecutePreprocessor.store_widget_state=False', str(by[n])], cwd=by[n].parent, check=True)
            subprocess.run([str(Path(sys.executable).with_name('nbdev_clean')), '--fname', str(by[n])], cwd=ROOT, check=True)
        note([by[n]])


if __name__ == '__main__': main(sys.argv[1:])
