"Folders of frames, splits, caches and their accidents: what nbs/02_data.ipynb does not show"
import errno, os, re, signal, subprocess, sys, time, zlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tfrecord.writer import TFRecordWriter

from i2v_paper import arm, data
from i2v_paper.core import Problem
from i2v_paper.data import load_clips
from i2v_paper.formats import BOX_LOW, BOX_SPAN
from i2v_paper.sources import EVALUATION, LAYOUTS, VALIDATION, eval_notes, evaluation_windows, split_clips, video_of
from i2v_paper.standins import ACTIONS, JOINTS, MODULES, STANDINS, TEST_SEED, clothes, find_standin, measure_wind, paint_body, start_pose, stream, to_bytes

T, SIZE = 8, 32
REAL = Path(os.environ.get('I2V_TEST_DATA') or 'nowhere')
needs_real = pytest.mark.skipif(not (REAL/'sky_timelapse').is_dir(), reason='real clips: set I2V_TEST_DATA to a folder that holds sky_timelapse')
needs_lists = pytest.mark.skipif(not (REAL/'splits').is_dir(), reason="the authors' split lists: set I2V_TEST_DATA to a folder that holds splits")


def write_clip(folder, seed=0, n=12, first=26, name='frame{}.jpg', size=(96, 54)):
    "A drawn landscape as pictures with a hole in the numbering after every third; returns the frames as written"
    folder.mkdir(parents=True)
    frames = [Image.fromarray(f).resize(size) for f in STANDINS['landscape'].draw(seed, n, 48)[0]]
    for t, f in enumerate(frames): f.save(folder/name.format(first + t + t//3), quality=95)
    return frames


@pytest.fixture
def sky(tmp_path):
    root = tmp_path/'sky'
    for i, c in enumerate(('sky_train/a/a_1', 'sky_train/a/a_2', 'sky_train/b/b_1', 'sky_test/c/c_1')): write_clip(root/c, i)
    return root


@pytest.fixture
def load(sky, tmp_path):
    "load_clips on the small folder, with some arguments changed"
    def call(**changes): return load_clips(**dict(dataset='landscape', split='train', frames=T, size=SIZE, data_dir=sky, cache=tmp_path/'cache', report=None) | changes)
    return call


def said(call):
    "The message of the Problem that `call` raises; never more than three lines"
    with pytest.raises(Problem) as e: call()
    assert len(str(e.value).split('\n')) <= 3
    return str(e.value)


# --- reading

def test_png_frames_come_back_exactly(tmp_path):
    frames = write_clip(tmp_path/'d'/'sky_train'/'v'/'v_1', name='frame{}.png', size=(SIZE, SIZE))
    write_clip(tmp_path/'d'/'sky_test'/'w'/'w_1')
    clips = load_clips('landscape', 'train', T, SIZE, data_dir=tmp_path/'d', cache=tmp_path/'cache', report=None)
    assert len(clips) == 12 - T and not clips.drawn
    for i in range(len(clips)): assert np.array_equal(clips.video[i], np.stack(frames[i:i + T + 1]))
    x = clips.batch([3, 1])
    assert x.shape == (2, T + 1, 3, SIZE, SIZE) and torch.equal(x[1, 1], x[0, 1] * 0 + torch.from_numpy(np.asarray(frames[2]).copy()).permute(2, 0, 1)/127.5 - 1)


def test_jpeg_frames_are_resized_to_a_square_in_natural_order(load, sky):
    files = sorted((sky/'sky_test/c/c_1').iterdir(), key=lambda f: int(re.search(r'\d+', f.name)[0]))
    want = np.stack([np.asarray(Image.open(f).resize((SIZE, SIZE), Image.BILINEAR)) for f in files])
    clips = load(split='test')
    assert np.array_equal(clips.video[0], want[:T + 1]) and np.array_equal(clips.video[len(clips) - 1], want[-T - 1:])


def test_numbers_of_different_length_are_ordered_as_numbers(tmp_path, load, sky):
    write_clip(sky/'sky_train/n/n_1', n=15, first=3)                       # frame3 ... frame21
    clips = load(frames=14)
    assert clips.factors['video'].tolist() == ['n']
    first, last = (np.asarray(Image.open(sky/f'sky_train/n/n_1/frame{k}.jpg').resize((SIZE, SIZE), Image.BILINEAR)) for k in (3, 21))
    assert np.array_equal(clips.video[0][0], first) and np.array_equal(clips.video[0][-1], last)


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'LA', 'CMYK'])
def test_other_colour_modes_become_rgb_and_are_noted(load, sky, mode):
    for f in list((sky/'sky_train/a/a_1').iterdir()):
        Image.open(f).convert('RGB').convert(mode).save(f.with_suffix('.png' if mode != 'CMYK' else '.jpeg')); f.unlink()
    clips = load()
    assert len(clips) == 12 and clips.video.shape[-1] == 3 and any(f'mode {mode}' in n for n in clips.notes)


def test_mixed_sizes_are_resized_and_noted(load, sky):
    f = sky/'sky_train/a/a_1/frame26.jpg'; Image.open(f).resize((50, 80)).save(f)
    assert any('different sizes' in n for n in load().notes)
    assert not any('different sizes' in n for n in load(split='test').notes)


def test_files_that_are_no_frames_are_passed_over(load, sky):
    for name in ('._frame26.jpg', 'Thumbs.db', 'notes.txt'): (sky/'sky_train/a/a_1'/name).write_bytes(b'no picture')
    for folder in ('.trash', '__MACOSX'): (sky/'sky_train'/folder).mkdir(); (sky/'sky_train'/folder/'frame1.jpg').write_bytes(b'')
    assert len(load()) == 3*(12 - T)


def test_spaces_and_other_alphabets_in_paths(tmp_path):
    root = tmp_path/'meine Videos'/'Wölkchen 雲'
    write_clip(root/'sky_train'/'été à la mer'/'é 1'); write_clip(root/'sky_test'/'облака'/'о_1')
    clips = load_clips('landscape', 'train', T, SIZE, data_dir=str(root), cache=tmp_path/'кэш', report=None)
    assert clips.factors['video'][0] == 'été à la mer' and clips.batch([0]).shape[1] == T + 1


def test_iper_folders(tmp_path):
    names = [f'{s:03d}_{o}_{a}' for s in (1, 2, 3) for o in (1, 2) for a in (1, 2)]
    for i, c in enumerate(names): write_clip(tmp_path/'i'/c, i, n=9, first=0, name='frame_{}.png')
    sets = {s: load_clips('iper', s, T, SIZE, data_dir=tmp_path/'i', cache=tmp_path/'cache', report=None) for s in ('train', 'test')}
    assert len(sets['train']) == 10 and len(sets['test']) == 2 and any('1 of 6 videos' in n for n in sets['test'].notes)
    assert not set(sets['train'].factors['video']) & set(sets['test'].factors['video'])


def test_relative_and_home_paths(load, sky, monkeypatch, tmp_path):
    monkeypatch.chdir(sky.parent); assert len(load(data_dir='sky')) == 12
    monkeypatch.setenv('HOME', str(tmp_path)); assert len(load(data_dir='~/sky')) == 12


# --- splits and windows

def test_n_windows(load):
    assert len(load(n=7)) == 7 and len(load(n=99)) == 12 and any('12 are all there are' in n for n in load(n=99).notes)
    picked = lambda **k: list(zip((c := load(**k)).factors['clip'].tolist(), c.factors['start'].tolist()))
    assert picked(n=5, seed=0) == picked(n=5, seed=0) != picked(n=5, seed=1)
    assert picked(n=2, split='test', seed=0) == picked(n=2, split='test', seed=1)
    assert len(set(picked(n=9))) == 9


def test_only_needed_clips_are_decoded(load, tmp_path):
    load(n=1)
    assert len(list((tmp_path/'cache').rglob('*.npy'))) == 1


def test_short_clips_are_left_out_and_noted(load, sky):
    write_clip(sky/'sky_train/s/s_1', n=T)                                  # one frame too few
    clips = load()
    assert 's' not in clips.factors['video'] and any('1 of 4' in n for n in clips.notes)


def test_lists_come_before_folders(load, sky):
    (sky/'train.txt').write_text('b/b_1\n\ngone/gone_3\n'); (sky/'test.txt').write_text('a/a_1/\na/a_1/\n')
    assert set(load().factors['video']) == {'b'}
    test = load(split='test')
    assert test.factors['clip'].tolist() == ['sky_train/a/a_1']*(12 - T)     # named twice, read once
    assert any('gone/gone_3' in n for n in test.notes)
    (sky/'test.txt').unlink(); assert 'test.txt' in said(load)


def test_a_video_on_both_sides_leaves_the_training_set(load, sky):
    write_clip(sky/'sky_test/a/a_9')
    clips = load()
    assert set(clips.factors['video']) == {'b'} and any('left out because their videos are in the test set: 2' in n for n in clips.notes)


def test_without_test_folder_a_tenth_of_the_videos_is_held_out():
    clips = [f'sky_train/v{v}/v{v}_{c}' for v in range(40) for c in range(3)]
    tops, notes = split_clips(clips, Path('nowhere'), LAYOUTS['landscape'])
    assert len({video_of(c) for c in tops['test']}) == 4 and len(tops['test']) == 12 and '4 of 40' in notes[0]
    assert sorted(tops['train'] + tops['test']) == sorted(clips) and tops['eval'] == []


def authors_clips(name, lists):
    "The names that the clips of the authors' lists have on disk"
    folder = (lambda split, l: f'sky_{"test" if split == "test" else "train"}/{l}') if name == 'landscape' else (lambda split, l: l.replace('/', '_'))
    return list(dict.fromkeys(folder(s, l.strip('/')) for s, lines in lists.items() for l in lines))


@needs_lists
@pytest.mark.parametrize('name, train, kept, test, shared', [('landscape', 1074, 112, 153, 68), ('iper', 138, 26, 42, 0)])
def test_authors_lists(tmp_path, name, train, kept, test, shared):
    "Every line of the authors' lists names a clip, and no video trains and tests"
    lists = {f.stem: f.read_text().split() for f in (REAL/'splits'/name).glob('*.txt')}; clips = authors_clips(name, lists)
    for s in ('train', 'test'): (tmp_path/f'{s}.txt').write_text('\n'.join(lists[s]) + '\n')
    tops, notes = split_clips(clips, tmp_path, LAYOUTS[name])
    assert (len(tops['train']), len(tops['eval']), len(tops['test']), notes) == (train, 0, test, [])
    assert f'no list {LAYOUTS[name].eval_list}' in said(lambda: eval_notes(tops, tmp_path, LAYOUTS[name]))
    for s in lists: (tmp_path/f'{s}.txt').write_text('\n'.join(lists[s]) + '\n')
    more, notes = split_clips(clips, tmp_path, LAYOUTS[name])
    assert (more['train'], len(more['eval']), more['test'], notes) == (tops['train'], kept, tops['test'], [])    # the list of eval clips changes nothing else
    assert not set(more['eval']) & {*more['train'], *more['test']}
    said_of = eval_notes(more, tmp_path, LAYOUTS[name]); assert said_of == ([f'eval clips whose videos are also trained on: {shared} of {kept}'] if shared else [])
    if name == 'landscape': assert all(c.startswith('sky_train/') for c in more['eval'])


@needs_lists
def test_the_release_of_iper_has_no_eval_part(tmp_path):
    "Its val.txt is what is tested on; beside the authors' test.txt it is what a model is chosen on"
    lists = {f.stem: f.read_text().split() for f in (REAL/'splits/iper').glob('*.txt')}; clips = authors_clips('iper', lists); rule = LAYOUTS['iper']
    for s in ('train', 'val'): (tmp_path/f'{s}.txt').write_text('\n'.join(lists[s]) + '\n')
    tops, _ = split_clips(clips, tmp_path, rule)
    assert tops['eval'] == [] and len(tops['test']) == 26 and 'val.txt is the test list, as there is no test.txt' in said(lambda: eval_notes(tops, tmp_path, rule))
    (tmp_path/'test.txt').write_text('\n'.join(lists['test'])); assert split_clips(clips, tmp_path, rule)[0]['eval'] == tops['test']


def test_eval_of_lists(load, sky):
    (sky/'train.txt').write_text('a/a_1\nb/b_1\n'); (sky/'test.txt').write_text('c/c_1\n'); (sky/'eval.txt').write_text('a/a_2/\na/a_2\ngone/gone_1\n')
    kept = load(split='eval')
    assert kept.factors['clip'].tolist() == ['sky_train/a/a_2']*(12 - T) and {'a', 'b'} == set(load().factors['video'])        # the lists are followed
    assert 'clips of eval.txt that are not in the folder: 1, such as gone/gone_1' in kept.notes and 'eval clips whose videos are also trained on: 1 of 1' in kept.notes
    assert load(split='eval', n=2, seed=0).factors['start'].tolist() == load(split='eval', n=2, seed=1).factors['start'].tolist() == [0, 3]      # evenly spaced, as test
    (sky/'eval.txt').write_text('b/b_1\n'); train = load()
    assert set(train.factors['video']) == {'a'} and any('because they are eval clips: 1' in n for n in train.notes)          # named in both lists
    (sky/'eval.txt').write_text('c/c_1\n'); text = said(lambda: load(split='eval')); assert 'eval.txt names none' in text and len(load()) == 2*(12 - T)
    (sky/'eval.txt').unlink(); text = said(lambda: load(split='eval')); assert 'no list eval.txt' in text and 'add the list eval.txt, or use the split test' in text


def test_eval_of_a_list_beside_folders(load, sky):
    (sky/'eval.txt').write_text('a/a_1\n')
    assert set(load(split='eval').factors['clip']) == {'sky_train/a/a_1'} and set(load(split='test').factors['clip']) == {'sky_test/c/c_1'}
    train = load()                                                          # a_2 is of the same video
    assert set(train.factors['clip']) == {'sky_train/b/b_1'} and 'training clips left out because their videos are in the eval set: 1' in train.notes


def test_eval_clips_are_never_drawn_for_testing():
    clips = [f'{v:03d}_1_{a}' for v in range(40) for a in (1, 2)] + [f'eval/{v}' for v in range(10)]
    tops, notes = split_clips(clips, Path('nowhere'), LAYOUTS['folder'])
    assert tops['eval'] == clips[80:] and not set(tops['eval']) & {*tops['train'], *tops['test']} and '8 of 80' in notes[0] and len(tops['train']) == 72


def test_protocol_windows_of_eval(load, sky):
    write_clip(sky/'sky_train/d/d_1', n=40); (sky/'eval.txt').write_text('d/d_1\n')
    kept = load(split='eval', protocol=True, frames=16)
    assert len(kept) == len({*kept.factors['start']}) == 7 and kept.factors['start'].tolist() == load(split='eval', protocol=True, frames=16, seed=9).factors['start'].tolist() and not kept.notes
    assert 'the authors choose on 1 + 16 frames, not on 1 + 8' in load(split='eval', protocol=True).notes
    assert 'no train windows' in said(lambda: load(protocol=True))
    assert [len(evaluation_windows([60]*26, 17, VALIDATION[d])) for d in ('iper', 'bair', 'dtdb-clouds')] == [26*15, 26, 26]


# --- fingerprints and caches

def test_fingerprints(load, sky):
    assert load().fingerprint == load().fingerprint
    marks = [load().fingerprint, load(n=3).fingerprint, load(frames=7).fingerprint, load(size=16).fingerprint, load(split='test').fingerprint]
    (sky/'sky_train/a/a_1/frame26.jpg').unlink(); marks.append(load().fingerprint)
    assert len(set(marks)) == len(marks)


def test_a_changed_picture_is_decoded_again(load, sky):
    before = load().video[0].copy()
    f = sky/'sky_train/a/a_1/frame26.jpg'; Image.new('RGB', (96, 54), 'red').save(f)
    after = load().video[0]
    assert not np.array_equal(before[0], after[0]) and after[0][..., 0].min() > 240 and np.array_equal(before[1:], after[1:])


def test_a_failing_build_loses_nothing(load, sky, tmp_path):
    cache = lambda: {f: f.stat().st_mtime_ns for f in (tmp_path/'cache').rglob('*.npy')}
    load(split='test'); kept = cache()
    f = sky/'sky_train/b/b_1/frame26.jpg'; good = f.read_bytes(); f.write_bytes(good[:-200])
    said(load); half = cache()
    assert len(half) == 3 and kept.items() <= half.items()                   # a_1 and a_2 were decoded before the bad picture
    f.write_bytes(good); load()
    assert half.items() <= cache().items() and len(cache()) == 4
    assert not list((tmp_path/'cache').rglob('.*'))


def test_a_damaged_cache_is_built_anew(load, tmp_path):
    first = load().video[:]
    for f in (tmp_path/'cache').rglob('*.npy'): whole = f.read_bytes(); f.unlink(); f.write_bytes(whole[:-1000])
    data._open.cache_clear()
    assert np.array_equal(load().video[:], first)


def test_two_processes_build_one_cache(sky, tmp_path):
    code = f'''from i2v_paper.data import load_clips
import hashlib
a = load_clips('landscape', 'train', {T}, {SIZE}, data_dir={str(sky)!r}, cache={str(tmp_path/"both")!r}, report=None)
b = load_clips('iper', 'test', {T}, 16, n=30, cache={str(tmp_path/"both")!r}, report=None)
print(hashlib.sha256(a.video[:].tobytes() + b.video[:].tobytes()).hexdigest())'''
    both = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [p.communicate(timeout=120)[0] for p in both]
    assert out[0] == out[1] != '' and not any(p.returncode for p in both) and not list((tmp_path/'both').rglob('.*'))


def test_a_killed_drawing_continues(tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'CHUNK', 5)
    code = f'''from i2v_paper import data
data.CHUNK = 5
data.load_clips('iper', 'train', 16, 64, n=2000, cache={str(tmp_path)!r}, report=None)'''
    p = subprocess.Popen([sys.executable, '-c', code])
    done = lambda: {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*.npy')}
    end = time.time() + 120
    while len(done()) < 3 and time.time() < end: time.sleep(.05)
    p.send_signal(signal.SIGKILL); p.wait(); kept = done()
    assert 3 <= len(kept) < 400
    n = 5*len(kept) + 7
    clips = load_clips('iper', 'train', 16, 64, n=n, cache=tmp_path, report=None)
    assert kept.items() <= done().items()                                    # what was finished is not drawn again
    for i in (0, 5*len(kept) - 1, n - 1): assert np.array_equal(clips.video[i], STANDINS['iper'].draw(i, 17, 64)[0])
    assert len(clips.factors['action']) == n and clips.factors['action'][n - 1] == STANDINS['iper'].draw(n - 1, 17, 64)[1]['action']


def test_drawn_clips(tmp_path, capsys):
    clips = load_clips('landscape', 'test', 4, 16, n=3, cache=tmp_path)
    assert clips.drawn and 'drawn stand-in' in capsys.readouterr().out
    assert np.array_equal(clips.video[2], STANDINS['landscape'].draw(TEST_SEED + 2, 5, 16)[0])
    kept = load_clips('landscape', 'eval', 4, 16, n=3, cache=tmp_path, report=None)
    assert np.array_equal(kept.video[2], STANDINS['landscape'].draw(2*TEST_SEED + 2, 5, 16)[0]) and kept.fingerprint != clips.fingerprint
    assert load_clips('landscape', 'train', 4, 16, n=1, cache=tmp_path, report=None).fingerprint != load_clips('landscape', 'eval', 4, 16, n=1, cache=tmp_path, report=None).fingerprint
    more = load_clips('landscape', 'test', 4, 16, n=5, cache=tmp_path, report=None)
    assert np.array_equal(more.video[:3], clips.video[:]) and more.fingerprint != clips.fingerprint
    wide = load_clips('landscape', 'test', 4, 16, n=3, cache=tmp_path, report=None, margin=4)
    assert wide.batch([0]).shape == (1, 5, 3, 16, 16) and wide.fingerprint != clips.fingerprint


def test_another_generator_is_another_data_set(tmp_path, monkeypatch):
    a = load_clips('iper', 'test', 2, 16, n=2, cache=tmp_path, report=None)
    monkeypatch.setattr(data, 'code_hash', lambda *source: 'changed')
    assert load_clips('iper', 'test', 2, 16, n=2, cache=tmp_path, report=None).fingerprint != a.fingerprint


# --- what is said when something is wrong

def test_names(load):
    assert "did you mean 'landscape'" in said(lambda: load(dataset='lanscape'))
    assert "did you mean 'train'" in said(lambda: load(split='trian'))


def test_folders(load, sky, tmp_path):
    (tmp_path/'file.tar').touch(); (tmp_path/'none').mkdir(); (tmp_path/'films'/'x').mkdir(parents=True); (tmp_path/'films/x/1.txt').touch()
    for folder, words in {tmp_path/'gone': ('does not exist', 'gone', 'correct the path'), tmp_path/'file.tar': ('not a folder', 'unpack'),
                          tmp_path/'none': ('is empty', 'none'), tmp_path/'films': ('no .jpg or .png', 'unpack'), sky/'sky_train': ('part', 'above')}.items():
        text = said(lambda: load(data_dir=folder))
        assert all(w in text for w in (*words, 'sky_train')), text
    assert '<subject>_<outfit>_<action>' in said(lambda: load(dataset='iper', data_dir=tmp_path/'none'))


def test_halves(load, sky):
    (sky/'sky_train').rename(sky/'elsewhere'); assert 'no sky_train' in said(load)


def test_one_video_cannot_be_split(tmp_path, load):
    write_clip(tmp_path/'one'/'001_1_1')
    assert '1 of 1 videos' in said(lambda: load(dataset='iper', data_dir=tmp_path/'one'))


def test_too_short(load):
    text = said(lambda: load(frames=12))
    assert 'holds 13 frames (1 + 12)' in text and 'the longest has 12' in text


@pytest.mark.parametrize('damage, word', [(lambda b: b[:len(b)//2], 'truncated'), (lambda b: b[:10], 'truncated'), (lambda b: b'', 'empty'), (lambda b: b'x'*len(b), 'cannot identify')])
def test_damaged_pictures(load, sky, damage, word):
    f = sky/'sky_train/a/a_2/frame28.jpg'; f.write_bytes(damage(f.read_bytes()))
    text = said(load)
    assert str(f) in text and word in text.lower() and 'download it again' in text
    f.unlink(); assert len(load()) == 11


def test_sixteen_bits_are_refused(load, sky):
    f = sky/'sky_train/a/a_1/frame99.png'; Image.fromarray(np.zeros((9, 9), np.uint16)).save(f)
    assert '8 bits' in said(load)


def test_full_disk(load, monkeypatch):
    monkeypatch.setattr(data.shutil, 'disk_usage', lambda p: type('U', (), dict(free=1000)))
    assert 'I2V_RUNS' in said(load)


# --- batches

def test_a_batch_is_a_function_of_its_seed(load):
    clips = load(margin=4); kw = dict(augment=('flip', 'crop', 'jitter'), jitter=(.3, .3, .3, .15))
    assert torch.equal(clips.batch([0, 5], rng=1, **kw), clips.batch(torch.tensor([0, 5]), rng=torch.Generator().manual_seed(1), **kw))
    assert not torch.equal(clips.batch([0, 5], rng=1, **kw), clips.batch([0, 5], rng=2, **kw))
    assert clips.batch(range(2), rng=1, **kw).abs().max() <= 1
    with pytest.raises(Problem, match='flip'): clips.batch([0], augment=('flpi',), rng=0)
    with pytest.raises(ValueError, match='rng'): clips.batch([0], augment=('flip',))


def test_crops_are_windows_of_the_stored_frames(load):
    clips = load(margin=4); stored = clips.video[3]
    got = ((clips.batch([3], augment=('crop',), rng=9)[0] + 1)*127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert any(np.array_equal(got, stored[:, i:i + SIZE, j:j + SIZE]) for i in range(5) for j in range(5))


def test_without_crop_a_margin_is_resized_away(load):
    assert (load(margin=4).batch([0]) - load().batch([0])).abs().mean() < .02


# --- real clips

@needs_real
def test_real_sky_timelapse(tmp_path):
    sets = {s: load_clips('landscape', s, 16, 64, data_dir=REAL/'sky_timelapse', cache=tmp_path, report=None) for s in ('train', 'test')}
    assert (len(sets['train']), len(sets['test'])) == (5*17 + 18, 2*17) and not sets['train'].notes
    x = sets['test'].batch([0, 33])
    file = REAL/'sky_timelapse/sky_test/clip7/clip7_1/frame26.jpg'
    want = torch.from_numpy(np.asarray(Image.open(file).resize((64, 64), Image.BILINEAR)).copy()).permute(2, 0, 1)/127.5 - 1
    assert x.shape == (2, 17, 3, 64, 64) and torch.equal(x[0, 0], want)
    step, jump = x.diff(dim=1).abs().mean(), (x[0] - x[1]).abs().mean()
    assert 0 < step < jump                                                   # neighbouring frames are alike, different skies are not


@needs_real
def test_drawn_winds_blow_as_real_ones_do(tmp_path):
    "Skies drawn for a clip move about as far as real ones in 32 frames"
    clips = [load_clips('landscape', s, 32, 64, data_dir=REAL/'sky_timelapse', cache=tmp_path, report=None) for s in ('train', 'test')]
    speeds = []
    for film in {c.factors['video'][i]: c.batch([i])[0] for c in clips for i in range(len(c))}.values():
        video = ((film + 1)*127.5).permute(0, 2, 3, 1).numpy(); still = video.std(0).mean((1, 2)); land = np.zeros((64, 64), bool)
        land[max(16, int((still > .35*still.max()).argmin()) or 64):] = True                                        # below the rows that change
        speeds.append(measure_wind(video, land)[1])
    drawn = [f['speed'] for f in (find_standin('landscape').draw(k, 1, 16)[1] for k in range(200)) if not f['fast']]
    assert len(speeds) == 8 and .5 < np.median(drawn)/np.median(speeds) < 2 and max(drawn) < 1.3*max(speeds) and min(drawn) < 1.3*min(speeds), (speeds, np.median(drawn))


# --- the other data sets, in the layouts in which they are published

def write_film(file, seed=0, n=30, size=(64, 48)):
    "A drawn landscape as a film without loss; returns its frames"
    file.parent.mkdir(parents=True, exist_ok=True); frames = [np.asarray(Image.fromarray(f).resize(size)) for f in STANDINS['landscape'].draw(seed, n, 48)[0]]
    with av.open(str(file), 'w') as box:
        s = box.add_stream('libx264rgb', rate=25, options=dict(crf='0')); s.width, s.height, s.pix_fmt = *size, 'rgb24'
        for f in [*frames, None]:
            for p in s.encode(f if f is None else av.VideoFrame.from_ndarray(f, format='rgb24')): box.mux(p)
    return np.stack([np.asarray(Image.fromarray(f).resize((SIZE, SIZE), Image.BILINEAR)) for f in frames])


def write_pushes(root, split, first, last, n, pictures=False):
    "Robot pushes as TFRecords, or as the authors convert them; returns pictures and positions"
    name, shown = f'{split}/traj_{first}_to_{last}', []
    if not pictures: (root/split).mkdir(parents=True, exist_ok=True); out = TFRecordWriter(str(root/f'{name}.tfrecords'))
    for k in range(n):
        video = STANDINS['landscape'].draw(first + k, 30, 64)[0]; hand = BOX_LOW + BOX_SPAN*np.random.default_rng(first + k).random((30, 3))
        if pictures:
            folder = root/name/str(k + 1); folder.mkdir(parents=True); np.savetxt(folder/'endeffector_positions.csv', hand, delimiter=',')
            for i, f in enumerate(video): Image.fromarray(f).save(folder/f'{i}.png')
        else: out.write({f'{i}/image_{c}/encoded': ((video[i] if c == 'aux1' else 255 - video[i]).tobytes(), 'byte') for i in range(30) for c in ('aux1', 'main')}
                        | {f'{i}/endeffector_pos': (hand[i].tolist(), 'float') for i in range(30)} | {f'{i}/action': ([0.]*4, 'float') for i in range(30)})
        shown.append((video, hand))
    if not pictures: out.close()
    return shown


@pytest.fixture(params=['records', 'pictures'])
def robot(tmp_path, request):
    "BAIR in small, in both forms: 3 training pushes, 2 that the authors keep for validation, 4 test pushes"
    root, kw = tmp_path/'robot', dict(pictures=request.param == 'pictures'); base = root if kw['pictures'] else root/'softmotion30_44k'
    shown = dict(train=write_pushes(base, 'train', 512, 767, 3, **kw), test=write_pushes(base, 'test', 0, 255, 4, **kw))
    write_pushes(base, 'eval' if kw['pictures'] else 'train', 256, 511, 2, **kw)
    return root, shown


def test_bair(robot, tmp_path):
    root, shown = robot; get = lambda split, **k: load_clips('bair', split, 16, 64, data_dir=root, cache=tmp_path/'cache', report=None, **k)
    train, test = get('train'), get('test')
    assert (len(train), len(test)) == (3*14, 4) and test.factors['start'].tolist() == [0]*4 and train.factors['start'].max() == 13
    assert not any('256_to_511' in c for c in (*train.factors['clip'], *test.factors['clip']))
    kept = get('eval'); assert len(kept) == 2*14 and set(kept.factors['clip']) == {f'eval/traj_256_to_511/{k}' for k in (1, 2)} and kept.factors['start'].max() == 13 and not kept.notes
    assert np.array_equal(get('eval', protocol=True).video[1], kept.video[14 + get('eval', protocol=True).factors['start'][1]]) and len(get('eval', protocol=True)) == 2
    assert train.factors['endeffector'].shape == (42, 17, 3) and train.factors['endeffector'].dtype == np.float32
    for clips, split in ((train, 'train'), (test, 'test')):
        for i in (0, len(clips)//2, len(clips) - 1):
            k, s = int(clips.factors['clip'][i].rsplit('/')[-1]) - 1, clips.factors['start'][i]
            assert np.array_equal(clips.video[i], shown[split][k][0][s:s + 17]) and np.allclose(clips.factors['endeffector'][i], shown[split][k][1][s:s + 17], atol=1e-6)
    assert len(get('test', protocol=True)) == 4 and len(get('test', n=2)) == 2
    assert get('train', n=5, seed=1).fingerprint != get('train', n=5, seed=2).fingerprint


def test_cameras(tmp_path):
    write_pushes(tmp_path/'r'/'train', '.', 512, 767, 2); write_pushes(tmp_path/'r'/'test', '.', 0, 255, 1)
    get = lambda camera: load_clips('bair', 'test', 16, 64, data_dir=tmp_path/'r', cache=tmp_path/'cache', report=None, camera=camera)
    assert np.array_equal(get('aux1').video[0], 255 - get('main').video[0]) and get('aux1').fingerprint != get('main').fingerprint
    assert "did you mean 'main'" in said(lambda: get('mian'))
    assert 'only the real bair' in said(lambda: load_clips('iper', 'test', 16, 64, n=2, cache=tmp_path/'cache', report=None, camera='main'))
    write_pushes(tmp_path/'p', 'test', 0, 255, 1, pictures=True)
    assert 'one camera' in said(lambda: load_clips('bair', 'test', 16, 64, data_dir=tmp_path/'p', cache=tmp_path/'cache', report=None, camera='main'))


def test_records_are_decoded_once_and_a_flipped_bit_harms_no_other_file(robot, tmp_path):
    root, _ = robot; file = next((f for f in root.rglob('traj_512*.tfrecords')), None)
    if not file: pytest.skip('of records only')
    get = lambda split: load_clips('bair', split, 16, 64, data_dir=root, cache=tmp_path/'cache', report=None)
    get('test'); kept = {f: f.stat().st_mtime_ns for f in (tmp_path/'cache').rglob('*.np?')}
    good = file.read_bytes(); file.write_bytes(good[:900_000] + bytes([good[900_000] ^ 1]) + good[900_001:])
    text = said(lambda: get('train')); assert str(file) in text and 'record 1' in text
    assert len(get('test')) == 4 and {f: f.stat().st_mtime_ns for f in (tmp_path/'cache').rglob('*.np?')} == kept
    file.write_bytes(good); assert len(get('train')) == 42


def test_a_missing_table(tmp_path):
    for split, a in (('train', 512), ('test', 0)): write_pushes(tmp_path/'r', split, a, a + 255, 2, pictures=True)
    lost = tmp_path/'r/train/traj_512_to_767/2/endeffector_positions.csv'; lost.unlink()
    text = said(lambda: load_clips('bair', 'train', 16, 64, data_dir=tmp_path/'r', cache=tmp_path/'cache', report=None))
    assert str(lost) in text and '1 of 4' in text


def test_labels_are_mirrored_with_the_pictures(robot, tmp_path):
    clips = load_clips('bair', 'train', 16, 64, data_dir=robot[0], cache=tmp_path/'cache', report=None); i = [3, 20, 41, 7, 8, 30]
    x, mirrored = clips.mirrored_batch(i, augment=('flip', 'jitter'), rng=2, jitter=(.1, .1, .1, 0.)); got, plain = clips.factors_of(i, mirrored), clips.factors_of(i)
    assert torch.equal(x, clips.batch(i, augment=('flip', 'jitter'), rng=2, jitter=(.1, .1, .1, 0.))) and 0 < mirrored.sum() < 6
    still = clips.batch(i)
    for k, m in enumerate(mirrored):                                          # the flag says what the pictures show
        near = [(x[k] - v).abs().mean() for v in (still[k], still[k].flip(-1))]; assert (near[1] < near[0]) == bool(m)
        a, b = got['endeffector'][k], plain['endeffector'][k]
        assert np.array_equal(a[:, 1:], b[:, 1:]) and np.allclose(a[:, 0], 2*(BOX_LOW[0] + BOX_SPAN[0]/2) - b[:, 0] if m else b[:, 0], atol=1e-6)
    assert np.array_equal(got['clip'], plain['clip']) and np.array_equal(clips.factors_of(i, np.zeros(6, bool))['endeffector'], plain['endeffector'])
    drawn = data.Clips(clips.video, dict(endeffector=clips.factors['endeffector']), 'bair', '', drawn=True); a = drawn.factors_of(i, np.ones(6, bool))['endeffector']
    assert np.array_equal(a, plain['endeffector']*np.float32([-1, 1, 1]))       # the drawn arm has its middle at 0
    assert ('action' in plain) == robot[0].joinpath('softmotion30_44k').is_dir() and 'action' not in got      # four numbers of unknown axes: left out
    clips.mirrors = dict(endeffector=data.same); assert np.array_equal(clips.factors_of(i, mirrored)['endeffector'], plain['endeffector'])


def repainted(name, clip, known, k):
    "The scene of a drawn clip, drawn anew from its mirrored factors: picture, and what of it must agree"
    look = stream(zlib.crc32(name.encode()), 0, data.SEEDS['eval'] + clip)
    if name == 'iper':
        start_pose(look); c = clothes(look)
        return to_bytes(paint_body(known['angles'][k], c | dict(x=-c['x'], light=-c['light']), SIZE)[0]), True
    scene, flip, b = arm.set_table(look), np.array([-1, 1, 1]), known['blocks'][k]
    scene = scene._replace(xy=b[0, :, :2], yaw=b[0, :, 2], side=-scene.side, grain=np.pi + scene.grain*[-1, 1, -1, 1])
    with pytest.MonkeyPatch.context() as m:
        m.setattr(arm, 'SUN', arm.SUN*flip); canvas = arm.paint_scene(scene, known['endeffector'][k], b[..., :2], b[..., 2], SIZE)
    assert np.array_equal(canvas[..., arm.ARM] > .5, known['arm'][k]) and np.array_equal(canvas[..., arm.BLOCK] > .5, known['block'][k])
    return to_bytes(canvas[..., :3]), canvas[..., arm.ARM, None] == 0          # the machine's gloss has a side of its own


@pytest.mark.parametrize('name, changed', [('iper', {'angles', 'target', 'action', 'mask'}), ('bair', {'endeffector', 'blocks', 'arm', 'block', 'uncovered'})])
def test_a_mirrored_clip_is_drawn_from_its_mirrored_factors(tmp_path, name, changed):
    clips = load_clips(name, 'eval', 6, SIZE, n=12, cache=tmp_path, report=None); i = np.arange(12)
    x, mirrored = clips.mirrored_batch(i, augment=('flip',), rng=4); got, plain = clips.factors_of(i, mirrored), clips.factors_of(i)
    shown = ((x + 1)*127.5).round().byte().permute(0, 1, 3, 4, 2).numpy(); assert 3 < mirrored.sum() < 9
    for k in np.flatnonzero(mirrored):
        picture, where = repainted(name, k, got, k); near = np.abs(picture.astype(int) - shown[k])*where; assert near.max() <= 1, (name, k, near.max())
        picture, where = repainted(name, k, got | {f: plain[f] for f in ('angles', 'blocks') if f in plain}, k) if name == 'iper' else (clips.video[k], True)
        assert (np.abs(picture.astype(int) - shown[k])*where).max() > 50            # the same test finds factors that were not mirrored
    assert {f for f in got if not np.array_equal(got[f], plain[f])} == changed
    for f in got: assert got[f].dtype == plain[f].dtype and np.array_equal(got[f][~mirrored], plain[f][~mirrored])
    twice = data.Clips(clips.video, got, name, '', drawn=True).factors_of(i, mirrored)
    assert all(np.allclose(twice[f], plain[f]) for f in got)
    if name == 'iper':
        for k, a in enumerate(got['action']):                                        # the words agree with what the joints do
            words = ACTIONS[a].split(); way = (got['target'] - got['angles'][:, 0])[k, JOINTS.index('yaw')]
            if words[0] == 'turn': assert (way > .5) if words[1] == 'left' else (way < -.5)
            if words[0] == 'wave': assert got['target'][k, JOINTS.index(f'raise_{words[1][0]}')] > 1.6


@pytest.mark.parametrize('name', sorted({*STANDINS, *MODULES}))
def test_every_drawn_factor_has_its_mirror(tmp_path, name):
    clips = load_clips(name, 'train', 2, 16, n=6, cache=tmp_path, report=None); x, mirrored = clips.mirrored_batch(range(6), augment=('flip',), rng=1)
    assert set(clips.factors_of(range(6), mirrored)) == set(clips.factors) == set(find_standin(name).factors_help)
    clips.factors['heading'] = np.zeros(6); text = said(lambda: clips.factors_of(range(6), mirrored)); assert "'heading'" in text and 'mirrors' in text
    clips.mirrors = dict(heading=np.negative, speed=None); assert 'heading' in clips.factors_of(range(6), mirrored) and 'speed' not in clips.factors_of(range(6), mirrored)


def test_iper_films_and_frames_are_one(tmp_path):
    names = [f'{s:03d}_{o}_{a}' for s in (1, 2, 3) for o in (1, 12) for a in (1, 2)]; shown = {c: write_film(tmp_path/'i'/'iPER_256'/f'{c}.mp4', i) for i, c in enumerate(names)}
    (tmp_path/'i'/'train.txt').write_text('\n'.join(c.replace('_', '/') for c in names[:8])); (tmp_path/'i'/'val.txt').write_text('\n'.join(c.replace('_', '/') for c in names[8:]))
    get = lambda split, **k: load_clips('iper', split, T, SIZE, data_dir=tmp_path/'i', cache=tmp_path/'cache', report=None, **k)
    train, test = get('train'), get('test')
    assert (len(train), len(test)) == (8*(30 - T), 4*(30 - T)) and set(test.factors['clip']) == set(names[8:]) and not train.notes
    for i in (0, 5, 80): assert np.array_equal(train.video[i], shown[train.factors['clip'][i]][train.factors['start'][i]:][:T + 1])
    assert 'val.txt is the test list' in said(lambda: get('eval'))
    (tmp_path/'i'/'train.txt').write_text('\n'.join(names[:4])); (tmp_path/'i'/'test.txt').write_text('\n'.join(names[4:8]))       # the authors' three
    sets = {s: set(get(s).factors['clip']) for s in ('train', 'eval', 'test')}; assert sets == dict(train=set(names[:4]), eval=set(names[8:]), test=set(names[4:8]))
    (tmp_path/'i'/'train.txt').write_text('\n'.join(names[:8])); (tmp_path/'i'/'test.txt').unlink()
    (tmp_path/'i'/'test.txt').write_text('001/12/1\n001/12/2\n'); (tmp_path/'i'/'val.txt').unlink()
    assert set(get('test').factors['clip']) == {'001_12_1', '001_12_2'} and any('left out because their videos' in n for n in get('train').notes)
    write_clip(tmp_path/'i'/'frames'/'001_12_1', n=9, first=0, name='frame_{}.png'); assert (get('test').factors['clip'] == '001_12_1').sum() == 9 - T
    assert len(get('test', protocol=True)) == 9 - T + 30 - T                  # fewer than a thousand: all


def test_dtdb(tmp_path):
    base = tmp_path/'d'/'BY_DYNAMIC_FINAL'; n = 0
    for split, classes in dict(TRAIN=('Geyser', 'Dominant_non-rigid', 'Wavy_motion'), TEST=('Wavy_motion', 'Dominant_non-rigid')).items():
        for c in classes: write_film(base/split/c/f'{c}_g1_c{(n := n + 1)}.mp4', n)
    get = lambda split, **k: load_clips('dtdb', split, 16, SIZE, data_dir=k.pop('root', tmp_path/'d'), cache=tmp_path/'cache', report=None, **k)
    train, test = get('train'), get('test', protocol=True)
    assert dict(zip(train.factors['class'], train.factors['label'])) == {'Dominant_non-rigid': 0, 'Geyser': 1, 'Wavy_motion': 2}
    assert dict(zip(test.factors['class'], test.factors['label'])) == {'Dominant_non-rigid': 0, 'Wavy_motion': 2} and len(test) == 10 and len(train) == 3*14
    assert len({*test.factors['start'][:5]}) == 5 and np.array_equal(test.factors['start'], get('test', protocol=True, seed=3).factors['start'])
    assert len(get('train', root=base)) == 42                                 # the folder itself will do
    assert 'none is published' in said(lambda: get('eval'))
    write_film(base/'TEST'/'Sliding'/'Sliding_g1_c1.mp4'); assert "out of range: 'Sliding'" in said(lambda: get('test'))
    write_film(base/'TRAIN'/'x.mp4'); assert 'no label' in said(lambda: get('train'))


@pytest.mark.parametrize('texture, ending', [('clouds', 'png'), ('fire', 'jpg'), ('vegetation', 'jpg'), ('waterfall', 'jpg')])
def test_textures(tmp_path, texture, ending):
    for half, videos in dict(train=('v1', 'v2'), eval=('v1', 'v3')).items():
        for i, v in enumerate(videos): write_clip(tmp_path/'t'/texture/half/v, i, n=20, name=f'frame{{}}.{ending}')
    for root in (tmp_path/'t', tmp_path/'t'/texture):
        get = lambda split, **k: load_clips(f'dtdb-{texture}', split, 16, SIZE, data_dir=root, cache=tmp_path/'cache', report=None, **k)
        assert (len(get('train')), len(get('test')), len(get('test', protocol=True))) == (8, 8, 10)
        kept = get('eval'); assert kept.factors['clip'].tolist() == get('test').factors['clip'].tolist() and kept.notes == ['the eval clips are the test clips: eval is both'] and not get('test').notes
        assert get('eval', protocol=True).factors['start'].tolist() == [0, 0]
    other = 'fire' if texture != 'fire' else 'clouds'
    assert f'no folder {other}' in said(lambda: load_clips(f'dtdb-{other}', 'train', 16, SIZE, data_dir=tmp_path/'t', cache=tmp_path/'cache'))


def test_any_folder(tmp_path):
    for k in range(19): write_film(tmp_path/'clips'/f'été {k}.mp4', k, n=10)
    write_clip(tmp_path/'clips'/'Wölkchen 雲'/'one', n=10)
    get = lambda split, **k: load_clips('folder', split, T, SIZE, data_dir=tmp_path/'clips', cache=tmp_path/'cache', report=None, **k)
    train, test = get('train'), get('test')
    assert (len(train), len(test)) == (18*2, 2*2) and not {*train.factors['video']} & {*test.factors['video']} and any('2 of 20 videos' in n for n in test.notes)
    assert 'no test windows' in said(lambda: get('test', protocol=True))
    assert 'no list eval.txt and no folder eval' in said(lambda: get('eval'))
    write_clip(tmp_path/'clips'/'eval'/'two', n=10); kept = get('eval'); assert kept.factors['clip'].tolist() == ['eval/two']*2
    assert set(get('train').factors['clip']) == set(train.factors['clip']) and set(get('test').factors['clip']) == set(test.factors['clip'])
    assert 'no drawn stand-in' in said(lambda: load_clips('folder', 'train', T, SIZE, cache=tmp_path))


def test_a_data_set_that_is_not_drawn_yet(tmp_path, monkeypatch):
    monkeypatch.delitem(STANDINS, 'iper')
    assert 'no drawn stand-in' in (t := said(lambda: load_clips('iper', 'train', T, SIZE, cache=tmp_path, report=None))) and 'data_dir' in t


def test_a_stand_in_of_another_module(tmp_path, monkeypatch):
    "A module beside standins may draw; its own code then counts for the cache"
    (tmp_path/'elsewhere.py').write_text("import numpy as np\nfrom i2v_paper.standins import standin\n@standin('dtdb', 'grey', level='of grey')\n"
                                         "def paint(look, move, time, size): return np.full((len(time), size, size, 3), 77, np.uint8), dict(level=77)\n")
    monkeypatch.syspath_prepend(tmp_path); monkeypatch.setattr(data, 'STANDINS', STANDINS)
    import elsewhere
    try:
        clips = load_clips('dtdb', 'train', 4, 16, n=3, cache=tmp_path/'cache', report=None)
        assert clips.drawn and (clips.video[:] == 77).all() and clips.factors['level'].tolist() == [77]*3
    finally: del STANDINS['dtdb']


@needs_lists
def test_protocol_counts_with_the_authors_lists(tmp_path):
    "153 test videos make 918 windows of 32 frames"
    lines = (REAL/'splits/landscape/test.txt').read_text().split()
    where = evaluation_windows([33 + k % 5 for k in range(len(lines))], 33, EVALUATION['landscape'])
    assert len(where) == 918 and (np.bincount(where[:, 0]) == 6).all()
    assert len(evaluation_windows([1000]*42, 17, EVALUATION['iper'])) == 1000 and len(evaluation_windows([30]*256, 17, EVALUATION['bair'])) == 256


@needs_real
def test_real_protocol(tmp_path):
    test = load_clips('landscape', 'test', 32, 64, data_dir=REAL/'sky_timelapse', cache=tmp_path, report=None, protocol=True)
    assert test.video.shape == (12, 33, 64, 64, 3) and not test.notes


# --- accidents while caching

def test_a_disk_that_fills_up(load, tmp_path, monkeypatch):
    written = []
    class Full:
        "A file on a disk with room for two clips and a half"
        def __init__(self, f): self.f = f
        def write(self, b):
            written.append(len(b))
            if sum(written) > 2.5*12*SIZE*SIZE*3: raise OSError(errno.ENOSPC, 'No space left on device')
            return self.f.write(b)
        def __enter__(self): self.f.__enter__(); return self
        def __exit__(self, *e): return self.f.__exit__(*e)
    monkeypatch.setattr(data, 'open', lambda f, mode='r': Full(open(f, mode)) if mode == 'wb' else open(f, mode), raising=False)
    text = said(load); assert 'is full' in text and 'I2V_RUNS' in text and str(tmp_path/'cache') in text
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path/'cache').rglob('*.npy')}
    assert len(kept) == 2 and not list((tmp_path/'cache').rglob('.*'))
    monkeypatch.undo(); assert len(load()) == 12 and kept.items() <= {f: f.stat().st_mtime_ns for f in (tmp_path/'cache').rglob('*.npy')}.items()


def test_an_unreadable_folder(load, sky, monkeypatch):
    real = os.scandir
    def scandir(path):
        if str(path).endswith('a_1'): raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return real(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    assert 'a_1 cannot be opened: Permission denied' in said(load)


def test_two_processes_build_one_cache_of_films_and_labels(tmp_path):
    for k in range(6): write_film(tmp_path/'clips'/f'{k}.mp4', k)
    for split, a in (('train', 512), ('test', 0)): write_pushes(tmp_path/'robot', split, a, a + 255, 3)
    code = f'''from i2v_paper.data import load_clips
import hashlib
a = load_clips('folder', 'train', {T}, {SIZE}, data_dir={str(tmp_path/"clips")!r}, cache={str(tmp_path/"both")!r}, report=None)
b = load_clips('bair', 'train', 16, 64, data_dir={str(tmp_path/"robot")!r}, cache={str(tmp_path/"both")!r}, report=None)
print(hashlib.sha256(a.video[:].tobytes() + b.video[:].tobytes() + b.factors['endeffector'].tobytes()).hexdigest())'''
    both = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [p.communicate(timeout=120)[0] for p in both]
    assert out[0] == out[1] != '' and not any(p.returncode for p in both) and not list((tmp_path/'both').rglob('.*'))


def test_lost_labels_are_read_again(robot, tmp_path):
    get = lambda: load_clips('bair', 'test', 16, 64, data_dir=robot[0], cache=tmp_path/'cache', report=None).factors['endeffector']
    before = get()
    for f in (tmp_path/'cache').rglob('*.npz'): f.unlink()
    assert np.array_equal(before, get())
