"""The kernel of docs/add-a-kernel.md passes the tests that the page gives for it."""

from __future__ import annotations

import pytest

from tests.test_docs import DOCS, blocks, load_kernel_of_the_page


@pytest.mark.parametrize("name", ["test_equals_the_cpu_and_plain_counting", "test_no_images"])
def test_the_tests_of_the_page_pass(name, tmp_path, monkeypatch, device, host):
    module = load_kernel_of_the_page(tmp_path, monkeypatch)
    names: dict = {}
    exec(compile(blocks(DOCS / "add-a-kernel.md", "python")[1], "docs/add-a-kernel.md", "exec"), names)
    names[name](device, host)
    assert module._sizes_cuda.launches == (name != "test_no_images")
