"Folders of frames, splits, caches and their accidents: what nbs/02_data.ipynb does not show"
import os, re, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2v_paper import data
from i2v_paper.core import Problem
from i2v_paper.data import load_clips
from i2v_paper.sources import LAYOUTS, split_clips, video_of
from i2v_paper.standins import STANDINS, TEST_SEED

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
    assert sorted(tops['train'] + tops['test']) == sorted(clips)


@needs_lists
@pytest.mark.parametrize('name, train, test', [('landscape', 1074, 153), ('iper', 138, 42)])
def test_authors_lists(tmp_path, name, train, test):
    "Every line of the authors' lists names a clip, and no video is on both sides"
    lists = {f.stem: f.read_text().split() for f in (REAL/'splits'/name).glob('*.txt')}
    folder = (lambda split, l: f'sky_{"test" if split == "test" else "train"}/{l}') if name == 'landscape' else (lambda split, l: l.replace('/', '_'))
    clips = list(dict.fromkeys(folder(s, l.strip('/')) for s, lines in lists.items() for l in lines))
    for s in ('train', 'test'): (tmp_path/f'{s}.txt').write_text('\n'.join(lists[s]) + '\n')
    tops, notes = split_clips(clips, tmp_path, LAYOUTS[name])
    assert (len(tops['train']), len(tops['test']), notes) == (train, test, [])


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
    more = load_clips('landscape', 'test', 4, 16, n=5, cache=tmp_path, report=None)
    assert np.array_equal(more.video[:3], clips.video[:]) and more.fingerprint != clips.fingerprint
    wide = load_clips('landscape', 'test', 4, 16, n=3, cache=tmp_path, report=None, margin=4)
    assert wide.batch([0]).shape == (1, 5, 3, 16, 16) and wide.fingerprint != clips.fingerprint


def test_another_generator_is_another_data_set(tmp_path, monkeypatch):
    a = load_clips('iper', 'test', 2, 16, n=2, cache=tmp_path, report=None)
    monkeypatch.setattr(data, 'code_hash', lambda source: 'changed')
    assert load_clips('iper', 'test', 2, 16, n=2, cache=tmp_path, report=None).fingerprint != a.fingerprint


# --- what is said when something is wrong

def test_names(load):
    assert "did you mean 'landscape'" in said(lambda: load(dataset='lanscape'))
    assert "did you mean 'train'" in said(lambda: load(split='trian'))


def test_folders(load, sky, tmp_path):
    (tmp_path/'file.tar').touch(); (tmp_path/'none').mkdir(); (tmp_path/'films'/'x').mkdir(parents=True); (tmp_path/'films/x/1.txt').touch()
    for folder, words in {tmp_path/'gone': ('does not exist', 'gone', 'correct the path'), tmp_path/'file.tar': ('not a folder', 'unpack'),
                          tmp_path/'none': ('is empty', 'none'), tmp_path/'films': ('no .jpg or .png', 'unpack'), sky/'sky_train': ('half', 'above')}.items():
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
