"""A web page that replays how a completion was denoised.

It shows which token appeared at which step, coloured by its probability. The
page is one file that loads nothing else. Tokens are data in it, never markup:
a model must not be able to run scripts in a reader's browser.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple


class Token(NamedTuple):
  """A committed token.

  Attributes:
    text: the token alone, decoded.
    step: the denoising step that committed it, from 0.
    confidence: its probability, in [0, 1].
    end: whether it ends the text; the page then shows a mark instead.
  """

  text: str
  step: int
  confidence: float
  end: bool = False


def page(prompt: str, tokens: Sequence[Token], title: str) -> str:
  """Returns the page as HTML.

  Args:
    prompt: shown above the completion.
    tokens: the completion, from left to right.
    title: shown at the top.
  """
  data = json.dumps({
    "title": title, "prompt": prompt,
    "tokens": [[t.text, t.step, round(t.confidence, 4), int(t.end)]
               for t in tokens]})
  # Escaped, so that no token ends the script or opens another tag. U+2028 and
  # U+2029 are line ends in older JavaScript.
  for char in "<>&\u2028\u2029":
    data = data.replace(char, f"\\u{ord(char):04x}")
  return _PAGE.replace("DATA", data)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
  script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>Denoising, step by step</title>
<style>
body { font: 16px/1.6 system-ui, sans-serif; max-width: 46rem;
  margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.1rem; }
#prompt { white-space: pre-wrap; color: #555; border-left: 3px solid #ccc;
  padding-left: .8rem; }
#text { white-space: pre-wrap; overflow-wrap: anywhere;
  font-family: ui-monospace, monospace; margin: 1rem 0; }
#text span { border-radius: 3px; }
.masked { color: #bbb; }
.mark { color: #888; }
.new { outline: 2px solid #2b6cb0; }
#bar { display: flex; gap: .8rem; align-items: center; position: sticky;
  top: 0; background: #fff; padding: .5rem 0; margin-top: 1rem; }
#bar input { flex: 1; }
#step { min-width: 8rem; text-align: right; }
#key { background: linear-gradient(90deg, hsl(0 70% 88%), hsl(60 70% 88%),
  hsl(120 70% 88%)); border-radius: 3px; padding: 0 .6rem; font-size: .8rem; }
</style>
<h1></h1>
<div id="prompt"></div>
<div id="bar"><button>play</button><input type="range" min="0">
<span id="step"></span></div>
<div id="text"></div>
<p><span id="key">unsure &rarr; sure</span></p>
<script type="application/json" id="data">DATA</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text");
const slider = document.querySelector("input");
const button = document.querySelector("button");
document.querySelector("h1").textContent = data.title;
document.getElementById("prompt").textContent = data.prompt;
const spans = data.tokens.map(([word, step, confidence]) => {
  const span = document.createElement("span");
  span.title = `${JSON.stringify(word)}: step ${step + 1}, ` +
    `probability ${confidence}`;
  text.append(span);
  return span;
});
const last = 1 + Math.max(-1, ...data.tokens.map(token => token[1]));
slider.max = last;
function show() {
  const now = Number(slider.value);
  data.tokens.forEach(([word, step, confidence, end], i) => {
    const there = step < now;
    const shown = end ? "\\u25aa" : word.replaceAll("\\n", "\\u21b5\\n");
    spans[i].textContent = there ? shown : "\\u2591";
    spans[i].className = !there ? "masked" :
      (end ? "mark " : "") + (step === now - 1 ? "new" : "");
    spans[i].style.background =
      there ? `hsl(${120 * confidence} 70% 88%)` : "";
  });
  document.getElementById("step").textContent = `step ${now} of ${last}`;
}
let timer = null;
function stop() {
  clearInterval(timer);
  timer = null;
  button.textContent = "play";
}
button.onclick = () => {
  if (timer) return stop();
  if (Number(slider.value) >= last) slider.value = 0;
  button.textContent = "stop";
  timer = setInterval(() => {
    slider.value = Number(slider.value) + 1;
    show();
    if (Number(slider.value) >= last) stop();
  }, Math.min(120, 15000 / last));
};
slider.oninput = () => { stop(); show(); };
slider.value = last;
show();
</script>
</html>
"""
