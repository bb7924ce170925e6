"What no notebook can check about itself: names, equations, entry points, the front page."
import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = sorted((ROOT/'nbs').rglob('*.ipynb'))
COMPONENTS = [p for p in NBS if re.match(r'\d\d[a-z]?_', p.name)]
COMPARED = [p for p in NBS if p.parent == ROOT/'nbs'/'compared']
ENTRY = [p for p in NBS if p.parent == ROOT/'nbs' and p not in COMPONENTS and p.stem != 'index']
name = lambda p: p.stem
module = lambda p: f'compared.{p.stem}' if p in COMPARED else p.stem.split('_', 1)[1]     # 02a_formats -> formats
file = lambda m: ROOT/'i2v_paper'/f'{m.replace(".", "/")}.py'


def load(path): return json.loads(path.read_text(encoding='utf-8'))
def source(cell): return ''.join(cell['source'])
def code(nb): return [source(c) for c in nb['cells'] if c['cell_type'] == 'code']
def prose(nb): return '\n'.join(source(c) for c in nb['cells'] if c['cell_type'] == 'markdown')


@pytest.mark.parametrize('path', COMPONENTS + COMPARED, ids=name)
def test_component_exports_the_module_of_its_name(path):
    nb = load(path)
    exports = re.findall(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(code(nb)), re.M)
    assert exports == [module(path)]
    assert file(exports[0]).is_file()


@pytest.mark.parametrize('path', COMPONENTS + COMPARED, ids=name)
def test_component_has_the_anatomy(path):
    nb = load(path)
    first, text = source(nb['cells'][0]), prose(nb)
    assert re.match(r'# .+\n\n> .+', first), 'title and one-line subtitle'
    for word in ('**You will**', '**Paper**', '**Runs in**'): assert word in first
    for head in ('## Summary', '## Exercises'): assert head in text
    solutions = [c for c in nb['cells'] if 'solution' in c['metadata'].get('tags', [])]
    assert len(solutions) == 2 and all(source(c).startswith('#| code-fold: true') for c in solutions)
    assert '\n'.join(code(nb)).count('# your turn') == 2
    checks = [c for c in code(nb) if re.search(r'^\s*(assert|test_\w+\(|check_\w+\()|; ?(assert|test_\w+\()', c, re.M)]
    assert len(checks) >= 3


@pytest.mark.parametrize('path', NBS, ids=name)
def test_notebook_is_small_clean_and_without_errors(path):
    nb = load(path)
    assert path.stat().st_size < 300_000
    for cell in nb['cells']:
        assert not any(o.get('output_type') == 'error' for o in cell.get('outputs', []))
        assert cell['cell_type'] != 'code' or len([l for l in source(cell).split('\n') if l.strip()]) <= 70


@pytest.mark.parametrize('path', NBS, ids=name)
def test_outputs_name_no_folder_of_the_machine_that_made_them(path):
    for cell in load(path)['cells']:
        for out in cell.get('outputs', []):
            text = json.dumps([out.get('text'), {k: v for k, v in out.get('data', {}).items() if k.startswith('text/')}])
            assert not re.search(r'(?<![\w.:/])/(work|opt|root|home|Users|mnt)/', text), text[:300]


@pytest.mark.parametrize('path', ENTRY, ids=name)
def test_entry_point_has_literal_parameters_and_no_outputs(path):
    nb = load(path)
    tagged = [c for c in nb['cells'] if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1
    for line in source(tagged[0]).splitlines():
        m = re.match(r'(\w+): (str|int|float|bool) = (.+?)\s*# \S', line)
        assert m, f'not "name: type = literal  # help": {line}'
        ast.literal_eval(m[3])
    assert not any(c.get('outputs') for c in nb['cells'])
    assert not any(re.search(r'^#\|\s*export', c, re.M) for c in code(nb))
    assert 'before = set(globals())' in code(nb)[0]


@pytest.mark.parametrize('stem', ['bair', 'iper', 'landscape', 'dtdb', 'folder'])
def test_page_of_a_data_set_has_the_anatomy(stem):
    nb = load(ROOT/'nbs'/'datasets'/f'{stem}.ipynb')
    assert re.match(r'# .+\n\n> .+', source(nb['cells'][0])), 'title and one-line subtitle'
    for head in ('What it is', 'How to get it', 'Licence', 'Layout', 'Split', 'Where we differ'): assert re.search(rf'^## {head}$', prose(nb), re.M), head
    assert f'-p dataset {stem}' in prose(nb) and not re.search(r'^#\|\s*export', '\n'.join(code(nb)), re.M)


@pytest.mark.parametrize('equation', ['1', '2', '3', '4'])
def test_each_equation_of_the_supplement_has_its_line(equation):
    tags = [p.name for p in COMPONENTS if rf'\tag{{{equation}}}' in prose(load(p))]
    lines = [f'{p.name}: {l.strip()}' for p in (ROOT/'i2v_paper').glob('*.py') for l in p.read_text(encoding='utf-8').splitlines() if re.search(rf'# Eq\. {equation}$', l)]
    assert len(tags) == 1 and len(lines) == 1, (tags, lines)


def test_dependencies_flow_one_way():
    modules = {module(p) for p in COMPONENTS + COMPARED}
    def imports(m):
        found = re.findall(r'^from (\.+)([\w.]+) import', file(m).read_text(encoding='utf-8'), re.M)      # one dot inside compared means compared
        return {('compared.' if m.startswith('compared.') and dots == '.' else '') + n for dots, n in found} & modules
    graph = {m: imports(m) for m in modules}
    def visit(m, trail):
        assert m not in trail, f'circle: {" -> ".join([*trail, m])}'
        for n in graph[m]: visit(n, (*trail, m))
    for m in graph: visit(m, ())
    assert graph['video'] >= {'encoder', 'losses'} and graph['compared.systems'] >= {'compared.blocks', 'core'}      # the reading of imports can see


def test_compared_systems_know_nothing_of_the_protocol_and_little_of_each_other():
    for p in COMPARED:
        text = file(module(p)).read_text(encoding='utf-8'); before = {m for m in map(module, COMPONENTS) if re.search(rf'^from \.\.{m} import', text, re.M)}
        late = {module(c) for c in COMPONENTS if int(c.name[:2]) >= 17}
        assert not before & late, (p.name, before & late)
        if p.stem != 'systems': assert not re.search(r'^from \.systems import', text, re.M), p.name


def test_readme_is_the_index():
    from i2v_paper.pages import readme
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme()


def test_readme_numbers_are_those_of_results():
    from i2v_paper.pages import results_table
    assert results_table().data in (ROOT/'README.md').read_text(encoding='utf-8')


def test_links_and_images_of_the_readme_exist():
    for target in re.findall(r'\]\((?!https?:|#)([^)]+)\)', (ROOT/'README.md').read_text(encoding='utf-8')):
        assert (ROOT/target).exists(), target


def test_every_public_function_says_what_it_does():
    missing = []
    for p in COMPONENTS + COMPARED:
        tree = ast.parse(file(module(p)).read_text(encoding='utf-8'))
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_') and not ast.get_docstring(node):
                missing.append(f'{p.stem}: {node.name}')
    assert not missing
