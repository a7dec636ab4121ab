// What Python says, in Chinese: caveats, notes, reasons, errors. The first line that fits is taken.
// `{name}` is a value, itself looked up; what no line fits stays as Python says it.

const SAID = [
  ["queries", "逐词元的注意力"],
  ["layers", "层"],
  ["measurement", "测量"],
  ["{a} by class", "{a}（按类别）"],
  ["it was not asked for", "未要求"],
  ["layers {a} to {b} do not fit into {c} MB", "第 {a} 至 {b} 层放不进 {c} MB"],
  ["layers {a} do not fit into {b} MB", "第 {a} 层放不进 {b} MB"],
  ["{a} seconds were enough for {b} of {c} maps", "{a} 秒只够测量 {c} 幅热图中的 {b} 幅"],
  ["its layers do not all see the same tokens", "各层所见的词元不尽相同"],
  ["its attention has a bias or a rule {_} do not give", "其注意力带有偏置或自有规则，仅凭查询与键无法得出"],
  ["a saved map has no model behind it", "已保存的热图背后没有模型"],
  ["not rollout: {_}", "并非展开：各层相乘的次序有误，图中是每个图块自身的混合中 CLS 所占之少，而非 CLS 看向何处"],
  ["first of {a} frames", "共 {a} 帧，取第一帧"],
  ["frame {a} of {b} frames", "共 {b} 帧，取第 {a} 帧"],
  ["turned upright by its EXIF orientation", "已按 EXIF 方向转正"],
  ["16-bit grey divided by 257", "16 位灰度已除以 257"],
  ["transparency laid on white", "透明处已铺白底"],
  ["palette converted to RGB", "调色板已转为 RGB"],
  ["{a} converted to RGB", "{a} 已转为 RGB"],
  ["chosen by vitscope for this model: {a} ({b})", "vitscope 为此模型所选：{a}（{b}）"],
  ["chosen by vitscope for this model: {a}", "vitscope 为此模型所选：{a}"],
  ["evidence for the class", "类别的依据"],
  ["evidence for the target", "目标的依据"],
  ["what is looked at, and what is alike", "看向何处，何处相似"],
  ["what is looked at", "看向何处"],
  ["it has no option {a}", "没有选项 {a}"],
  ["{a} is class-agnostic: the target {b} changes nothing", "{a} 不分类别：目标 {b} 不起作用"],
  ["{a} has its own rules, {b}: gradient {c} changes nothing", "{a} 自有规则 {b}：gradient {c} 不起作用"],
  ["{a} uses no gradient: gradient {b} changes nothing", "{a} 不用梯度：gradient {b} 不起作用"],
  ["{a} of the weight lies on padding {_} is not drawn", "{a} 的权重落在模型于图外所加的填充上，未绘出"],
  ["activations taken at the {a}", "激活取自{a}"],
  ["{a}, which has no norm{_}", "{a}，此处没有归一化"],
  ["{a}, which changes no patch", "{a}，它不改变图块"],
  ["first norm of {a}", "{a}的首个归一化"],
  ["input of {a}", "{a}的输入"],
  ["output of {a}", "{a}的输出"],
  ["block {a} ({b})", "第 {a} 块（{b}）"],
  ["block {a}", "第 {a} 块"],
  ["made on {a} x {b} tokens, each drawn on those of the {c} x {d} patches {_}", "在 {a} × {b} 个词元上算得，再绘到 {c} × {d} 个图块"],
  ["score after each block: {a}", "各块之后的得分：{a}"],
  ["refined: {_}", "已细化：热图沿图块的相似之处展开"],
  ["no sinks were found: this is plain rollout", "未发现汇聚点：即普通的展开"],
  ["{a} sinks (row,column): {b} and {c} more", "{a} 个汇聚点（行,列）：{b} 及另外 {c} 个"],
  ["{a} sinks (row,column): {b}", "{a} 个汇聚点（行,列）：{b}"],
  ["{a} of them with outlying token lengths", "其中 {a} 个的词元长度异常"],
  ["preprocessing chosen by vitscope: {a}", "vitscope 所选的预处理：{a}"],
  ["the whole photo resized to {a} x {b}, ImageNet mean and deviation", "整张照片缩放至 {a} × {b}，用 ImageNet 的均值与标准差"],
  ["timm's own: {a}", "timm 自带：{a}"],
  ["torchvision's ImageClassification preset: {_} at {a}", "torchvision 的 ImageClassification 预设：短边与中心裁剪均为 {a}"],
  ["open_clip's own for this tower", "open_clip 为此模型自带"],
  ["one attention is subtracted from another: {_}", "一个注意力减去另一个：各头平均时二者同等计入，如同相加"],
  ["the method '{a}' does not apply: {b}", "方法 {a} 不适用：{b}"],
  ["these do: {a}", "可用：{a}"],
  ["not {a}: {b}", "未用 {a}：{b}"],
  ["it leaves the same tokens out of all blocks, and {a}", "它在所有块中去掉同样的词元，而{a}"],
  ["it reads the same tokens in every layer, and {a}", "它在每层读取同样的词元，而{a}"],
  ["it multiplies the attention of the same tokens in every layer, and {a}", "它将各层同样词元的注意力相乘，而{a}"],
  ["this model's layers do not all see the same tokens (windows, merging or reduced keys)", "此模型各层所见的词元不尽相同（窗口、合并或缩减的键）"],
  ["{a}: expected {b} queries x {c} keys in each, seen {d}", "{a}：应为每层 {b} 查询 × {c} 键，实为 {d}"],
  ["where its blocks' tokens lie on the picture is not known", "各块的词元在图上的位置未知"],
  ["its layout was stated, so nothing is known of the grids of its layers", "布局是给定的，各层的网格未知"],
  ["the model lays the tokens of all pictures in one row", "模型把所有图片的词元排成一行"],
  ["its blocks know places {_} cannot be dropped", "各块自知位置（位置偏置或旋转）：不能移除词元"],
  ["the projection after the attention of {a} was not seen: {_} not known", "未见 {a} 的注意力之后的投影：值的长度未知"],
  ["the recipe reads token 0 {_} no CLS token", "此法以词元 0 为 CLS，而此模型没有 CLS"],
  ["its attention calls do not stand in blocks of their own", "其注意力不在各自的块中"],
  ["something happens to its tokens between its blocks", "词元在块与块之间另有变化"],
  ["its blocks do not each take and give tokens (B, {a}, D)", "并非每块都收发词元 (B, {a}, D)"],
  ["the tokens around {_} fill no grid of patches", "末层注意力前后的词元不成网格"],
  ["only {a} of what the answer reads {_} part of the answer's", "答案所读的图片内容只有 {a} 经过末块的词元：另有并列的分支"],
  ["with every patch token left out the model has no token left", "去掉全部图块后模型没有词元可用"],
  ["patches cannot be dropped: {a}", "图块不能移除：{a}"],
  ["mode='fill' paints over them", "可改用「遮住」"],
  ["flow is exact and slow: {a} tokens are more than {b}", "flow 精确而慢：{a} 个词元超过 {b} 个"],
  ["ncut makes a matrix of all patches with all: {a} are more than {b}", "ncut 要计算所有图块两两之间的矩阵：{a} 个超过 {b} 个"],
  ["ask for a smaller input with size=, or for {a}", "用 size= 缩小输入，或改用 {a}"],
  ["there is but one patch token at the {a}: nothing to cut", "{a}只有一个图块：无从切分"],
  ["ask an earlier layer=", "请选更早的 layer="],
  ["the score is not a finite number {_} replaced", "替换图块后得分不是有限数"],
  ["take another baseline: {_}", "请换一种基线：去掉全部图块后有些模型没有答案"],
  ["the map of '{a}' holds NaN or infinity", "{a} 的热图含 NaN 或无穷"],
  ["use {a}", "请用 {a}"],
  ["{a} knows no texts: the target text('{b}') needs {_} SigLIP", "{a} 不懂文字：目标「{b}」需要 CLIP、SigLIP 一类的模型"],
  ["the target text has no words", "目标文字为空"],
  ["the target {a} is a class, and this model has none", "目标 {a} 是类别，而此模型没有类别"],
  ["the target '{a}' is the contrast {_} everywhere", "目标 {a} 是类别与自身之差，处处为 0"],
  ["leave the target out, or {_}", "可去掉目标，或写 image:图片；CLIP 与 SigLIP 还可写 text:文字"],
  ["in Python {a}", "Python 中为 {a}"],
  ["load a whole CLIP or SigLIP of {_}", "请载入完整的 CLIP 或 SigLIP"],
  ["no patch has a gradient at the {a}: nothing reads the patches there", "{a}处没有图块有梯度：此后无处读取图块"],
  ["ask at='norm' or 'input', or for an earlier layer", "请用 at='norm' 或 'input'，或选更早的层"],
  ["what is read out is not among the tokens at the {a}", "{a}处的词元中没有读出所用的"],
  ["ask for a patch: query='row,column'", "请选一个图块：query='行,列'"],
  ["there is no class {a}", "没有类别 {a}"],
  ["classes are 0 to {a}", "类别为 0 至 {a}"],
  ["no class is called '{a}'", "没有名为 {a} 的类别"],
  ["no {a} is called '{b}'", "没有名为 {b} 的 {a}"],
  ["did you mean '{a}'? choices: {b}", "是否指 {a}？可选：{b}"],
  ["choices: {a}", "可选：{a}"],
  ["the model does not take {a} x {b} pixels: {c}", "模型不接受 {a} × {b} 像素：{c}"],
  ["similar to {a}", "与 {a} 相似"],
  ["the text '{a}'", "文字「{a}」"],
  ["the feature's own norm", "特征自身的范数"],
  ["probability of {a} ({b})", "{a} 的概率（{b}）"],
  ["cosine to the whole picture's feature", "与整幅图特征的余弦"],
  ["register {a}", "寄存器 {a}"],
  ["distillation", "蒸馏"],
  ["detection {a}", "检测 {a}"],
];

const FORMS = [];

// More of them, of a host; they are tried first.
export function learn(pairs) {
  FORMS.unshift(...pairs.map(([english, chinese]) => {
    const form = english.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{(\w)\}/g, "(?<$1>.*?)");
    return [new RegExp(`^${form}$`, "s"), chinese];
  }));
}
learn(SAID);

// A list of sayings, apart: what stands in brackets stays together.
function apart(words) {
  const parts = [], open = (text) => text.split("(").length > text.split(")").length;
  for (const part of words.split("; ")) {
    if (parts.length && open(parts.at(-1))) parts.push(`${parts.pop()}; ${part}`);
    else parts.push(part);
  }
  return parts;
}

export function said(words) {
  const parts = apart(words), all = parts.length > 1 ? parts.map(said) : parts;
  if (all.some((one, i) => one !== parts[i])) return all.join("；");
  for (const [form, chinese] of FORMS) {
    const found = form.exec(words);
    // a value of one word is a name
    if (found) return chinese.replace(/\{(\w)\}/g, (_, name) => (found.groups[name].includes(" ") ? said(found.groups[name]) : found.groups[name]));
  }
  const [, detail, hint] = /^(.+) \((.+)\)$/s.exec(words) ?? [];
  return hint && (said(detail) !== detail || said(hint) !== hint) ? `${said(detail)}（${said(hint)}）` : words;
}
