"""segtrain encoders: lists, facts of a few, and all of one."""

from __future__ import annotations

import re

import pytest
import timm


def test_a_pattern_of_many_lists_names(cli):
    answer = cli("encoders", "tu-resnet")
    names = answer.stdout.splitlines()[:-2]
    assert answer.code == 0 and "tu-resnet18" in names
    assert all("resnet" in name for name in names)
    assert answer.stdout.splitlines()[-1].startswith(f"{len(names)} encoders")


def test_a_pattern_of_a_few_shows_their_facts(cli):
    answer = cli("encoders", "tu-test_*net")
    (row,) = re.findall(r"^tu-test_resnet .*$", answer.stdout, re.M)
    assert " 2-32 " in row
    millions = sum(p.numel() for p in timm.create_model("test_resnet").parameters()) / 1e6
    assert float(re.search(r"([\d.]+) M", row)[1]) <= millions


def test_one_encoder_is_described_with_its_architectures(cli):
    lines = cli("encoders", "tu-test_vit").stdout.splitlines()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    assert facts["architectures"] == "dpt" and facts["strides"] == "16"
    convolutional = cli("encoders", "resnet18").stdout
    assert "unet" in convolutional and "deeplabv3plus" in convolutional
    assert "123.7 116.3 103.5" in convolutional


@pytest.mark.parametrize("pattern, near", [("resnet81", "resnet18"), ("tu-*nothing*", "")])
def test_a_pattern_of_nothing_is_an_error(cli, pattern: str, near: str):
    answer = cli("encoders", pattern)
    assert answer.code == 2 and pattern in answer.error and near in answer.error
