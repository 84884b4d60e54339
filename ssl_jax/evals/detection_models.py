"""Torchvision's detectors on an exported ResNet (extra `detection`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

RATIOS = (0.5, 1.0, 2.0)
PYRAMID = 256  # channels of the feature pyramid
STEMS = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}  # kernel and stride
PROBE = 256  # side of the image by which strides are measured


def exported(
    kind: str, stages: Sequence[int], filters: int, stem: str, tensors: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Build torchvision's ResNet of these sizes and load its weights.

    Args:
      kind: "basic" or "bottleneck".
      stages: blocks of each stage, up to four.
      filters: channels of the stem.
      stem: "imagenet", or "cifar" or "small", which have no pooling.
      tensors: of `weights.timm.export`.
    """
    block = {"basic": BasicBlock, "bottleneck": Bottleneck}[kind]
    model = ResNet(block, [1, 1, 1, 1])  # type: ignore[arg-type]
    kernel, stride = STEMS[stem]
    model.conv1 = nn.Conv2d(3, filters, kernel, stride, kernel // 2, bias=False)
    model.bn1 = nn.BatchNorm2d(filters)
    if stem != "imagenet":
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    inputs = filters
    for number in range(4):
        stage: nn.Module = nn.Identity()
        if number < len(stages):
            planes, step = filters * 2**number, 1 if number == 0 else 2
            outputs, shortcut = planes * block.expansion, None
            if step > 1 or inputs != outputs:
                down = nn.Conv2d(inputs, outputs, 1, step, bias=False)
                shortcut = nn.Sequential(down, nn.BatchNorm2d(outputs))
            blocks = [block(inputs, planes, step, shortcut)]
            blocks += [block(outputs, planes) for _ in range(stages[number] - 1)]
            stage, inputs = nn.Sequential(*blocks), outputs
        setattr(model, f"layer{number + 1}", stage)
    model.load_state_dict(tensors)
    return model


def build(
    resnet: nn.Module, kind: str, norm: str, classes: int, rois: int, **transform: Any
) -> nn.Module:
    """Build a detector.

    Args:
      kind: "faster_rcnn", "mask_rcnn", "retinanet" (all with a feature pyramid) or
        "faster_rcnn_c4", whose head is the last stage.
      norm: "frozen" fixes the statistics and the affine map of every batch norm; "batch" trains
        them, and also normalises the pyramid or, in C4, the output of the head (as MoCo).
      classes: with the background, which is 0.
      rois: candidate regions per image that the head learns from.
      transform: torchvision's `min_size`, `max_size`, `image_mean`, `image_std`.

    Anchors grow with the strides of the maps: with a 7x7 stem they are the usual 32 to 512 pixels.

    Raises:
      ValueError: the network lacks the stages that this kind needs.
    """
    if norm == "frozen":
        freeze(resnet)
    if kind != "retinanet":
        transform["box_batch_size_per_image"] = rois
    stages = [f"layer{i}" for i in range(1, 5)]
    stages = [name for name in stages if not isinstance(getattr(resnet, name), nn.Identity)]
    if kind == "faster_rcnn_c4":
        return _c4(resnet, stages, norm, classes, **transform)
    if kind == "retinanet":
        stages = stages[1:] or stages
    widths, strides = _shapes(resnet, stages)
    extra = LastLevelP6P7(PYRAMID, PYRAMID) if kind == "retinanet" else LastLevelMaxPool()
    names = {name: str(i) for i, name in enumerate(stages)}
    layer = nn.BatchNorm2d if norm == "batch" else None
    body = BackboneWithFPN(resnet, names, widths, PYRAMID, extra, layer)
    if kind == "retinanet":
        strides += [2 * strides[-1], 4 * strides[-1]]
        octaves = [tuple(int(4 * s * 2 ** (i / 3)) for i in range(3)) for s in strides]
        anchors = AnchorGenerator(tuple(octaves), (RATIOS,) * len(octaves))
        return RetinaNet(
            body, classes, anchor_generator=anchors, detections_per_img=100, **transform
        )
    sizes = tuple((8 * s,) for s in (*strides, 2 * strides[-1]))
    anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    maps = list(names.values())
    transform |= {
        "rpn_anchor_generator": anchors,
        "box_roi_pool": MultiScaleRoIAlign(maps, 7, 2),
    }
    if kind == "mask_rcnn":
        return MaskRCNN(body, classes, mask_roi_pool=MultiScaleRoIAlign(maps, 14, 2), **transform)
    return FasterRCNN(body, classes, **transform)


def _c4(
    resnet: nn.Module, stages: list[str], norm: str, classes: int, **transform: Any
) -> nn.Module:
    if len(stages) < 4:
        raise ValueError(f"faster_rcnn_c4 needs a ResNet of four stages, this has {len(stages)}")
    widths, strides = _shapes(resnet, stages)
    extra = [nn.BatchNorm2d(widths[3])] if norm == "batch" else []
    head = nn.Sequential(
        resnet.get_submodule("layer4"), *extra, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    body: Any = IntermediateLayerGetter(resnet, {"layer3": "0"})
    body.out_channels = widths[2]
    sizes = (tuple(strides[2] * 2**i for i in range(1, 6)),)
    return FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator(sizes, (RATIOS,)),
        rpn_pre_nms_top_n_train=12_000,
        rpn_pre_nms_top_n_test=6_000,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 0),
        box_head=head,
        box_predictor=FastRCNNPredictor(widths[3], classes),
        **transform,
    )


def _shapes(resnet: nn.Module, stages: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the channels and the stride of each stage."""
    maps = IntermediateLayerGetter(resnet, {name: name for name in stages}).eval()
    with torch.no_grad():
        outputs = list(maps(torch.zeros(1, 3, PROBE, PROBE)).values())
    resnet.train()
    return [x.shape[1] for x in outputs], [PROBE // x.shape[2] for x in outputs]


def freeze(module: nn.Module) -> None:
    """Replace every batch norm by one with fixed statistics and affine map."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            fixed = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            fixed.load_state_dict(child.state_dict())
            setattr(module, name, fixed)
        else:
            freeze(child)
