"""Makes the fixtures of this folder with PyTorch. usage: make_fixtures.py FOLDER"""
import collections, json, pathlib, sys, torch
out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)
base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 4 - 2
sd = collections.OrderedDict()
sd["f32"] = base
sd["f16"] = base.to(torch.float16)
sd["bf16"] = base.to(torch.bfloat16)
sd["f64"] = base[0].to(torch.float64)
for n, t in (("i64", torch.int64), ("i32", torch.int32), ("i16", torch.int16), ("i8", torch.int8)):
    sd[n] = torch.tensor([-2, 0, 3], dtype=t)
sd["u8"] = torch.tensor([0, 7, 255], dtype=torch.uint8)
sd["bool"] = torch.tensor([True, False, True])
sd["transposed"] = sd["f32"].t()
sd["columns"] = sd["f16"][:, 1:4]
sd["slice"] = sd["f32"][1:3]
sd["permuted"] = torch.arange(24, dtype=torch.int16).reshape(2, 3, 4).permute(2, 0, 1)
sd["parameter"] = torch.nn.Parameter(torch.tensor([[1.5, -2.5]]))
sd["tied"] = sd["bf16"]
sd["scalar"] = torch.tensor(0.5)
sd["empty"] = torch.empty(0, 3)
sd["count"] = 77
sd["negative"] = -(2**40)
sd["flag"] = True
sd["none"] = None
sd["text"] = "x"
sd["real"] = 1.25
sd["list"] = [1, [2, (3, {"a": 4})]]
torch.save(sd, out / "state.pt")
torch.save(dict(sd), out / "protocol5.pt", pickle_protocol=5)
class M(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(3, 2); self.b = torch.nn.Linear(2, 2, bias=False)
m = M()
for i, p in enumerate(m.parameters()): p.data = torch.arange(p.numel(), dtype=torch.float32).reshape(p.shape) + 10 * i
whole = m.state_dict()
torch.save(whole, out / "module.pt")
sh = out / "sharded"; sh.mkdir(exist_ok=True)
half = [collections.OrderedDict((k, v.to(torch.bfloat16)) for k, v in whole.items() if k.startswith(c)) for c in "ab"]
wm = {}
for i, s in enumerate(half):
    f = f"pytorch_model-0000{i+1}-of-00002.bin"; torch.save(s, sh / f)
    for k in s: wm[k] = f
(sh / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": wm}, indent=2) + "\n")
