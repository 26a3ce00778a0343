from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dynconv_mt.data.prepare import iwslt14, wmt14
from dynconv_mt.data.prepare.__main__ import main
from dynconv_mt.data.prepare.layout import as_arguments, plain_splits
from dynconv_mt.data.prepare.markup import segments, talk_lines
from dynconv_mt.errors import UserError
from dynconv_mt.text.corpus import read_lines

SEGMENTS = '<doc docid="1">\n<seg id="1"> {0} &amp; one’s </seg>\n<seg id="2">{0} two</seg>\n</doc>\n'


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_both(prefix: Path, text: str, languages: tuple[str, str] = ("en", "de"), ending: str = "") -> None:
    for lang in languages:
        write(prefix.with_name(f"{prefix.name}.{lang}{ending}"), text)


def test_segments_are_text() -> None:
    assert list(segments(SEGMENTS.format("a").splitlines())) == ["a & one’s", "a two"]


def test_segments_keep_what_stands_there() -> None:
    text = "„Ja“ – &quot;so&quot; &#8217;s &lt;b&gt; &amp;amp; &copy &eacute; AT&T  a"
    expected = '„Ja“ – "so" ’s <b> &amp; &copy &eacute; AT&T  a'
    assert list(segments([f'<seg id="7">{text}</seg>'])) == [expected]


def test_talks_lose_their_metadata() -> None:
    lines = [
        "<url>http://x</url>",
        "<keywords>a, b</keywords>",
        "<talkid>7</talkid>",
        "<title> A: B</title>",
        " Hello. ",
    ]
    assert list(talk_lines(lines)) == ["A: B", "Hello."]


@pytest.fixture
def iwslt(tmp_path: Path) -> Path:
    """A release with 100 pairs, four of which are cleaned away."""
    folder = tmp_path / "release"
    dropped = {"de": ["", "one", "x " * 176, "a b c d"], "en": ["empty", "one two", "x " * 176, "a"]}
    for lang in ("de", "en"):
        lines = [f"{lang} sentence {i}" for i in range(96)]
        text = "\n".join(["<url>u</url>", *lines[:50], *dropped[lang], *lines[50:], "<keywords>k</keywords>"])
        write(folder / "de-en" / f"train.tags.de-en.{lang}", text)
        for name in iwslt14.TEST:
            write(folder / "de-en" / f"IWSLT14.{name}.de-en.{lang}.xml", SEGMENTS.format(f"{name} {lang}"))
    return folder


def test_iwslt_is_cleaned_before_it_is_split(iwslt: Path, tmp_path: Path) -> None:
    options = iwslt14.prepare(iwslt, tmp_path / "out")
    assert list(as_arguments(options)) == [f"{split}={tmp_path}/out/{split}" for split in ("train", "valid", "test")]
    valid = list(read_lines(tmp_path / "out" / "valid.de"))
    assert valid == [f"de sentence {i}" for i in (22, 45, 68, 91)]
    assert list(read_lines(tmp_path / "out" / "valid.en")) == [f"en sentence {i}" for i in (22, 45, 68, 91)]
    train = list(read_lines(tmp_path / "out" / "train.de"))
    assert sorted(train + valid) == sorted(f"de sentence {i}" for i in range(96))
    test = list(read_lines(tmp_path / "out" / "test.en"))
    assert test[:3] == ["TED.dev2010 en & one's", "TED.dev2010 en two", "TEDX.dev2012 en & one's"]
    assert len(test) == 10


def test_tokenised_iwslt_is_taken_as_it_is(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_both(tmp_path / split, "a &apos;s\n", ending=".gz")
    options = iwslt14.prepare(tmp_path, tmp_path / "out")
    assert options["text.tokenization"] == "none"
    assert options["train"] == str(tmp_path / "train")


def test_sides_of_different_length_are_refused(iwslt: Path, tmp_path: Path) -> None:
    path = iwslt / "de-en" / "train.tags.de-en.de"
    path.write_text(path.read_text() + "\none more\n")
    with pytest.raises(UserError, match="one side ends after line 100"):
        iwslt14.prepare(iwslt, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_wmt_under_its_published_names(tmp_path: Path, ending: str) -> None:
    source = tmp_path / "wmt, 14"
    write_both(source / "training" / "europarl-v7.de-en", "a\n", ending=ending)
    write_both(source / "commoncrawl.de-en", "b\n", ending=ending)
    write_both(source / "training" / "news-commentary-v9.de-en", "c\n", ending=ending)
    write_both(source / "dev" / "newstest2013", "d\n", ending=ending)
    write(source / "test-full" / f"newstest2014-deen-src.en.sgm{ending}", SEGMENTS.format("english"))
    write(source / "test-full" / f"newstest2014-deen-ref.de.sgm{ending}", SEGMENTS.format("deutsch"))
    options = wmt14.prepare(source, tmp_path / "out")
    assert [Path(prefix).name for prefix in options["train"]] == list(wmt14.TRAIN)
    assert options["valid"] == str(source / "dev" / "newstest2013")
    assert options["test"] == str(tmp_path / "out" / "test")
    assert list(read_lines(tmp_path / "out" / "test.de")) == ["deutsch & one’s", "deutsch two"]
    assert next(iter(as_arguments(options))).startswith(f'train=["{source}/training/europarl-v7.de-en","')


def test_wmt_as_one_corpus(tmp_path: Path) -> None:
    for name in ("train", "newstest2013", "newstest2014"):
        write_both(tmp_path / name, "a\n")
    options = wmt14.prepare(tmp_path, tmp_path / "out")
    assert options["train"] == [str(tmp_path / "train")]
    assert options["test"] == str(tmp_path / "newstest2014")


@pytest.mark.parametrize(
    ("present", "words"),
    [
        (["europarl-v7.de-en", "newstest2013", "newstest2014"], "commoncrawl.de-en, news-commentary-v9.de-en"),
        (["train", "newstest2013"], "newstest2014-deen-src.en.sgm"),
    ],
)
def test_what_wmt_lacks_is_named(present: list[str], words: str, tmp_path: Path) -> None:
    for name in present:
        write_both(tmp_path / "in" / name, "a\n")
    with pytest.raises(UserError, match=words):
        wmt14.prepare(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plain_splits_name_what_is_missing(tmp_path: Path) -> None:
    write_both(tmp_path / "train", "a\n")
    with pytest.raises(UserError, match=r"val\.en"):
        plain_splits(tmp_path, "en", "de", ("train", "val", "test"))


def test_the_module_returns_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing"]) == 2
    assert main(["toy", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "prepare toy: error:" in capsys.readouterr().err
    for split in ("train", "valid", "test"):
        write_both(tmp_path / split, "a\n")
    assert main(["toy", str(tmp_path), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(f"train={tmp_path}/train\n")


def prepare(root: Path, recipe: str, *argv: object) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, with this environment's commands on the PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(root / "scripts" / f"prepare_{recipe}.sh"), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})


def test_scripts_go_from_text_to_data(root: Path, tmp_path: Path) -> None:
    text = "".join(f"Sentence number {i} is here.\n" for i in range(50))
    for name in ("train", "val", "test_2016_flickr"):
        write_both(tmp_path / "from here" / name, text, ending=".gz")
    out = tmp_path / "DATA"
    done = prepare(root, "multi30k", "--from", tmp_path / "from here", out, "bpe.vocab_size=320", "workers=1")
    assert done.returncode == 0, done.stderr
    assert (out / "data.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DATA", "from here"]


def test_scripts_pass_exit_codes_on(root: Path, tmp_path: Path) -> None:
    assert prepare(root, "multi30k").returncode == 2
    assert prepare(root, "multi30k", "--from", tmp_path / "nowhere", tmp_path / "DATA").returncode == 2
    for name in ("train", "val", "test_2016_flickr"):
        write_both(tmp_path / "in" / name, "a\n" if name != "val" else "")
    done = prepare(root, "multi30k", "--from", tmp_path / "in", tmp_path / "DATA")
    assert done.returncode == 2
    assert "dc-preprocess: error: " in done.stderr
    assert not (tmp_path / "DATA").exists()


def test_a_folder_that_holds_something_else_is_refused_before_the_download(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    done = prepare(root, "wmt14_en_de", f"{tmp_path}/thesis//")
    assert (done.returncode, done.stdout) == (2, "")
    assert "thesis: holds other files than this program's data" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis"]


def test_other_files_are_never_replaced(iwslt: Path, tmp_path: Path) -> None:
    """A second call replaces what the first wrote, and nothing else."""
    out = tmp_path / "OUT.corpus"
    for _ in range(2):
        iwslt14.prepare(iwslt, out)
    write(out / "thesis.txt", "years\n")
    with pytest.raises(UserError, match=r"holds something else \(thesis\.txt\)"):
        iwslt14.prepare(iwslt, out)
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "years\n"
    with pytest.raises(UserError, match=r"holds something else \(IWSLT14\.TED"):
        iwslt14.prepare(iwslt, iwslt / "de-en")


def test_downloads_go_on_after_an_interruption(root: Path, tmp_path: Path) -> None:
    """What is there under its own name is whole and unpacked; an altered file is refused."""
    for name in ("train", "val", "test_2016_flickr"):
        write_both(tmp_path / "in" / name, "".join(f"Sentence number {i} is here.\n" for i in range(50)))
    packed, out = tmp_path / "corpus.tgz", tmp_path / "DATA"
    subprocess.run(["tar", "-czf", packed, "-C", tmp_path / "in", "."], check=True)
    options = ["bpe.vocab_size=320", "workers=1", "overwrite=true"]
    command = [str(root / "scripts" / "prepare.sh"), "multi30k", packed.as_uri(), "--", str(out), *options]
    (tmp_path / "DATA.downloads").mkdir()
    (tmp_path / "DATA.downloads" / "corpus.tgz.part").write_text("half a download")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for altered in (False, False, True):
        if altered:
            (tmp_path / "DATA.downloads" / "corpus.tgz").write_bytes(b"another")
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == (2 if altered else 0), done.stderr
        assert ("is not what was downloaded first" in done.stderr) is altered
    assert (out / "data.json").is_file()
    by_hand = shutil.copy(packed, tmp_path / "DATA.downloads" / "corpus.tgz")
    Path(f"{by_hand}.sha256").unlink()
    again = subprocess.run([*command[:2], "file:///nowhere/corpus.tgz", *command[3:]], check=False, env=env)
    assert again.returncode == 0, "a file put there by hand needs no download"
    assert Path(f"{by_hand}.sha256").is_file()
