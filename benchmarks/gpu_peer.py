"""Train steps of SimCLR, DINO and MAE in PyTorch, for `gpu.py`; needs torch, torchvision and timm.

Networks are torchvision's and timm's; losses and heads follow the papers, in few lines. Mixed
precision is autocast to bfloat16, with channels-last convolutions and fused optimizers (SGD in
place of SimCLR's LARS). Prints one JSON line: the seconds per step of each of `counts` rounds of
steps on one batch.
"""

import copy
import itertools
import json
import sys
import time

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torchvision.models import resnet18, resnet50

SMALL_VIT = {"embed_dim": 64, "depth": 2, "num_heads": 2}
SIZES = {
    "dino": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "mae": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}


def mlp(*widths, norm=False):
    layers = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(before, after))
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(after), nn.ReLU()] if norm else [nn.GELU()]
    return nn.Sequential(*layers)


class Method(nn.Module):
    """`forward` takes the views of a batch, each (B, 3, S, S), and returns the loss."""

    def after_step(self):
        """Do what follows the optimizer."""


class TorchSimCLR(Method):
    def __init__(self, views, small):
        super().__init__()
        self.net = resnet18() if small else resnet50()
        width, self.net.fc = self.net.fc.in_features, nn.Identity()
        self.head = mlp(width, width, 128, norm=True)

    def forward(self, views):
        z = F.normalize(self.head(self.net(torch.cat(views))).float())
        logits = z @ z.T / 0.1
        logits.fill_diagonal_(-torch.inf)
        n = len(z) // 2
        return F.cross_entropy(logits, (torch.arange(2 * n, device=z.device) + n) % (2 * n))


class TorchDINO(Method):
    def __init__(self, views, small):
        super().__init__()
        sizes = SMALL_VIT if small else SIZES["dino"]
        self.size = views[0]
        vit = VisionTransformer(self.size, 16, num_classes=0, dynamic_img_size=True, **sizes)
        hidden, out = (64, 64) if small else (2048, 65536)
        self.student = nn.ModuleList([vit, mlp(sizes["embed_dim"], hidden, hidden, 256)])
        last = nn.utils.parametrizations.weight_norm(nn.Linear(256, out, bias=False))
        self.student.append(last)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(out))

    def outputs(self, networks, images):
        net, head, last = networks
        return last(F.normalize(head(net(images)), dim=-1)).float()

    def forward(self, views):
        large, small = views[:2], views[2:]
        with torch.no_grad():
            raw = self.outputs(self.teacher, torch.cat(large))
            targets = ((raw - self.center) / 0.07).softmax(-1).chunk(2)
            self.center.lerp_(raw.mean(0), 0.1)
        logits = [self.outputs(self.student, torch.cat(large)).chunk(2)]
        if small:
            logits.append(self.outputs(self.student, torch.cat(small)).chunk(len(small)))
        each = [view for group in logits for view in group]
        pairs = [(t, s) for i, t in enumerate(targets) for j, s in enumerate(each) if i != j]
        return sum(-(t * (s / 0.1).log_softmax(-1)).sum(-1).mean() for t, s in pairs) / len(pairs)

    @torch.no_grad()
    def after_step(self):
        slow, fast = list(self.teacher.parameters()), list(self.student.parameters())
        torch._foreach_lerp_(slow, fast, 1 - 0.996)


class TorchMAE(Method):
    def __init__(self, views, small):
        super().__init__()
        sizes = SMALL_VIT if small else SIZES["mae"]
        self.patch, width = 16, sizes["embed_dim"]
        self.vit = VisionTransformer(views[0], self.patch, num_classes=0, **sizes)
        dim, depth, heads = (64, 1, 2) if small else (512, 8, 16)
        count = (views[0] // self.patch) ** 2
        self.embed = nn.Linear(width, dim)
        self.mask = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, count + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, self.patch**2 * 3)

    def forward(self, views):
        (images,) = views
        tokens = self.vit.patch_embed(images) + self.vit.pos_embed[:, 1:]
        rows, count, width = tokens.shape
        order = torch.rand(rows, count, device=images.device).argsort(1)
        keep = order[:, : max(count // 4, 1)]
        x = tokens.gather(1, keep[..., None].expand(-1, -1, width))
        first = (self.vit.cls_token + self.vit.pos_embed[:, :1]).expand(rows, -1, -1)
        x = self.embed(self.vit.norm(self.vit.blocks(torch.cat([first, x], 1))))
        whole = self.mask.to(x.dtype).expand(rows, count, -1)
        whole = whole.scatter(1, keep[..., None].expand(-1, -1, x.shape[-1]), x[:, 1:])
        x = self.blocks(torch.cat([x[:, :1], whole], 1) + self.positions)
        predicted = self.out(self.norm(x[:, 1:])).float()
        target = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        deviation = (target.var(-1, keepdim=True) + 1e-6).sqrt()
        target = (target - target.mean(-1, keepdim=True)) / deviation
        hidden = torch.ones(rows, count, device=images.device).scatter(1, keep, 0.0)
        return ((predicted - target).square().mean(-1) * hidden).sum() / hidden.sum()


def main(request):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    kind = {"simclr": TorchSimCLR, "dino": TorchDINO, "mae": TorchMAE}[request["method"]]
    model = kind(request["views"], request["small"]).to(device)
    model = model.to(memory_format=torch.channels_last)
    fused = {"fused": True} if device.type == "cuda" else {}
    trained = [p for p in model.parameters() if p.requires_grad]
    if kind is TorchSimCLR:
        optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-4, **fused)
    else:
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, **fused)
    views = [
        torch.randn(request["images"], 3, size, size, device=device).to(
            memory_format=torch.channels_last
        )
        for size in request["views"]
    ]
    forward = torch.compile(model) if request["compile"] else model
    seconds = []
    for count in request["counts"]:
        began = time.perf_counter()
        for _ in range(count):
            with torch.autocast(device.type, torch.bfloat16):
                loss = forward(views)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            model.after_step()
        value = loss.item()  # waits for the device
        seconds.append((time.perf_counter() - began) / count)
    cuda = device.type == "cuda"
    out = {
        "seconds": seconds,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        "loss": round(value, 4),
        "torch": f"{torch.__version__}, timm {timm.__version__}",
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
