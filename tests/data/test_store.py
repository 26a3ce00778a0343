"""The token store: what goes in comes out, whatever the shards; nothing damaged is read."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv_mt.data.store import StoreWriter, TokenStore
from dynconv_mt.errors import UserError
from dynconv_mt.text.vocab import EOS, PAD

FINGERPRINT = "ab" * 32
Pairs = list[tuple[list[int], list[int]]]

token = st.integers(0, 70000).filter(lambda i: i not in (PAD, EOS))
sentence = st.lists(token, max_size=12)
pairs_of = st.lists(st.tuples(sentence, sentence), max_size=30)


def write(folder: Path, pairs: Pairs, shard_tokens: int = 50) -> TokenStore:
    with StoreWriter(folder, FINGERPRINT, shard_tokens) as writer:
        writer.add_many(pairs)
    return TokenStore.open(folder)


def some_pairs(count: int = 40) -> Pairs:
    rng = np.random.default_rng(0)
    return [(rng.integers(3, 900, n % 7).tolist(), rng.integers(3, 900, 1 + n % 5).tolist()) for n in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "store", some_pairs())
    return tmp_path / "store"


@given(pairs=pairs_of, shard_tokens=st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_reads_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, pairs: Pairs, shard_tokens: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = write(folder / "s", pairs, shard_tokens)
    store.verify()
    assert len(store) == len(pairs)
    for i, (src, tgt) in enumerate(pairs):
        assert store.source(i).tolist() == [*src, EOS]
        assert store.target(i).tolist() == [*tgt, EOS]
    assert store.src_lengths.tolist() == [len(src) + 1 for src, _ in pairs]
    assert store.tgt_lengths.tolist() == [len(tgt) + 1 for _, tgt in pairs]
    assert store.num_src_tokens == store.src_lengths.sum()
    assert store.num_tgt_tokens == store.tgt_lengths.sum()
    assert store.src_max_id == max((i for src, _ in pairs for i in [*src, EOS]), default=0)
    shutil.rmtree(folder)


def test_shards_are_bounded_and_readable_by_the_library(folder: Path) -> None:
    from safetensors.numpy import load_file

    shards = sorted(folder.glob("shard_*.safetensors"))
    assert len(shards) > 3
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", *(path.name for path in shards)]
    for path in shards:
        arrays = load_file(path)
        assert len(arrays["src_tokens"]) + len(arrays["tgt_tokens"]) <= 50
        assert arrays["src_tokens"].dtype == np.uint16


def test_ids_beyond_16_bits_take_32(tmp_path: Path) -> None:
    store = write(tmp_path / "s", [([65536, 7], [65535])])
    assert store.source(0).dtype == np.uint32
    assert store.target(0).dtype == np.uint16


def test_views_are_read_only_and_bounds_are_checked(folder: Path) -> None:
    store = TokenStore.open(folder)
    with pytest.raises(ValueError, match="read-only"):
        store.source(0)[0] = 5
    for i in (-1, len(store)):
        with pytest.raises(IndexError):
            store.target(i)


@pytest.mark.parametrize("special", [EOS, PAD])
def test_special_ids_inside_a_sentence_are_refused(tmp_path: Path, special: int) -> None:
    with pytest.raises(ValueError, match="contains"):
        write(tmp_path / "s", [([5, special, 6], [7])])
    assert not (tmp_path / "s" / "index.json").exists()


def test_an_exception_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with StoreWriter(tmp_path / "s", FINGERPRINT, 20) as writer:
            writer.add_many(some_pairs())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert list((tmp_path / "s").iterdir()) == []
    with pytest.raises(UserError, match="dc-preprocess"):
        TokenStore.open(tmp_path / "s")


def test_a_folder_with_a_store_is_not_written_again(folder: Path) -> None:
    with pytest.raises(UserError, match="already holds"):
        StoreWriter(folder, FINGERPRINT)


def test_fingerprint_and_digest(folder: Path, tmp_path: Path) -> None:
    store = TokenStore.open(folder)
    store.check_fingerprint(FINGERPRINT)
    with pytest.raises(UserError, match="another vocabulary"):
        store.check_fingerprint("cd" * 32)
    assert store.digest == write(tmp_path / "same", some_pairs()).digest
    assert store.digest != write(tmp_path / "other", some_pairs(39)).digest


def test_a_missing_or_truncated_shard_is_named(folder: Path) -> None:
    path = folder / "shard_00001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"shard_00001\.safetensors: has .* bytes.*dc-preprocess"):
        TokenStore.open(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"shard_00001\.safetensors: is missing.*dc-preprocess"):
        TokenStore.open(folder)


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    """The limit is raised as far as it may be; beyond that the store is not called damaged."""
    count = len(list((write(tmp_path / "store", some_pairs(600), shard_tokens=4)).folder.glob("shard_*")))
    assert count > 500
    code = """
        import resource, sys
        from dynconv_mt.data.store import TokenStore
        from dynconv_mt.errors import UserError
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, int(sys.argv[2])))
        try:
            print(len(TokenStore.open(sys.argv[1])))
        except UserError as error:
            print(error)
    """
    for hard, words in ((count + 300, "600"), (200, "cannot be opened (Too many open files); raise the limit")):
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "store"), str(hard)]
        assert words in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_shard_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "other", "cd" * 32, 50) as writer:
        writer.add_many(some_pairs())
    shutil.copy(tmp_path / "other" / "shard_00000.safetensors", folder)
    with pytest.raises(UserError, match="another preprocessing run"):
        TokenStore.open(folder)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_one_altered_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("altered") / "s"
    write(folder, some_pairs(12))
    path = data.draw(st.sampled_from(sorted(folder.glob("shard_*"))))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        TokenStore.open(folder).verify()
    shutil.rmtree(folder)


@given(junk=st.one_of(st.binary(max_size=40), st.sampled_from([b"[]", b"{}", b'{"format": 1}', b"null", b'"x"'])))
@settings(max_examples=40, deadline=None)
def test_any_other_index_is_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("index")
    (folder / "index.json").write_bytes(junk)
    with pytest.raises(UserError, match=r"index\.json"):
        TokenStore.open(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("file", "../shard_00000.safetensors"), ("bytes", -1), ("bytes", "9"), ("sentences", True), ("sha256", None)],
)
def test_an_index_that_lies_is_refused(folder: Path, field: str, value: object) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0][field] = value
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="dc-preprocess"):
        TokenStore.open(folder)


@pytest.mark.parametrize("field", ["sentences", "src_tokens", "tgt_tokens"])
def test_counts_that_do_not_fit_the_shard_are_refused(folder: Path, field: str) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0][field] += 1
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="arrays that its index names"):
        TokenStore.open(folder)


def test_the_largest_ids_are_each_sides_own(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", "f") as writer:
        writer.add([5, 9], [7])
        writer.add([4], [12])
    store = TokenStore.open(tmp_path / "store")
    assert (store.src_max_id, store.tgt_max_id) == (9, 12)
