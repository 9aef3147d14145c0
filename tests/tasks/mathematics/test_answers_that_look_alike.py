"""Answers that only look like the gold."""

import math_answers
import pytest

PAIRS = math_answers.pairs(r"""
\frac{1}{2004!} ~ \frac{1}{2003!}
\frac{1}{2^{98}} ~ \frac{1}{2^{99}}
\frac{30!}{10!\,20!} ~ \frac{30!}{11!\,19!}
\frac{2^{1999}+1}{3\cdot 2^{2000}} ~ \frac{1}{3\cdot 2^{2000}}
1-\frac{1}{2^{60}} ~ 1-\frac{1}{2^{61}}
\left(\frac{5}{6}\right)^{200} ~ \left(\frac{5}{6}\right)^{199}
\frac{5^{40}-1}{4\cdot 5^{40}} ~ \frac{5^{40}-1}{5^{41}}
1.6\times 10^{-19} ~ 9.1\times 10^{-31}
10^{-20} ~ 10^{-21}
(1,\frac{1}{2^{60}}) ~ (1,\frac{1}{2^{61}})
\frac{\pi^2}{6\cdot 10^{20}} ~ \frac{\pi^2}{8\cdot 10^{20}}
\frac{10^{30}-1}{9\cdot 10^{30}} ~ \frac{10^{30}+1}{9\cdot 10^{30}}
x=3, y=4 ~ x=4, y=3
12\text{ pm} ~ 12\text{ am}
\text{12 noon} ~ 12\text{ midnight}
10\text{ feet north} ~ 10\text{ feet south}
5\text{ east} ~ 5\text{ west}
3\text{ times} ~ 3\text{ percent}
x=1, y=2 ~ 2, 1
\frac{1}{2004!} ~ -\frac{1}{2^{80}}
\frac{1}{2^{100}} ~ 2^{-101}
\frac{1}{2^{100}} ~ 0
0 ~ 10^{-30}
e^{-100} ~ e^{-101}
e^{-100} ~ 0
\frac{1}{\binom{100}{50}} ~ \frac{1}{\binom{100}{51}}
\ln(1+10^{-30}) ~ 10^{-30}
\sqrt{2}\cdot 10^{-20} ~ \sqrt{3}\cdot10^{-20}
\sqrt{2} ~ \sqrt{2}+10^{-30}
\sqrt{2} ~ 1.414213562373095
\pi ~ 3.14159265358979
(\frac{5}{6})^{200} ~ (\frac{5}{6})^{201}
\{1, 2^{-60}\} ~ \{1, 2^{-61}\}
[0, e^{-50}) ~ [0, e^{-51})
(0, 10^{-20}) \cup (1,2) ~ (0, 10^{-21}) \cup (1,2)
10^{-20}x ~ 10^{-21}x
y = 10^{-20}x ~ y=10^{-21}x
x < 10^{-20} ~ x < 10^{-21}
\begin{pmatrix}2^{-70}\\1\end{pmatrix} ~ \begin{pmatrix}0.5^{71}\\1\end{pmatrix}
10^{30}+1 ~ 10^{30}
\frac{10^{30}+1}{10^{30}} ~ 1
i \cdot 10^{-20} ~ i \cdot 10^{-21}
AB=9, CD=4 ~ AB=4, CD=9
AB=9, CD=4 ~ 4, 9
x=3, y=4 ~ x=3
x=3, y=4 ~ x=3, z=4
x=3, y=4 ~ (4,3)
x=3, y=4 ~ (x,y)=(4,3)
x=3, y=4 ~ (y,x)=(3,4)
f(2)=5, f(3)=7 ~ f(2)=7, f(3)=5
P(A)=\frac12, P(B)=\frac13 ~ P(A)=\frac13, P(B)=\frac12
x=3 ~ y=3
x=\sqrt{2} ~ y=\sqrt2
x=5 ~ 2x=11
x=5 ~ 2x=10
5 ~ 2x=10
x^2=4 ~ x=2
x=2 ~ x^2=4
y=2x+3 ~ y=2x+4
y=2x+3 ~ 2x+y+3=0
y=2x+3 ~ x=2y+3
y=2x+3 ~ 0=0
y=2x+3 ~ y=y
x+y=5 ~ x-y=5
1,2 ~ x=1
1,2 ~ x=1 \text{ or } x=3
1,2 ~ x=1, y=2
1,2 ~ 1,2,3
\infty ~ 5, \infty
\infty ~ \infty, 5
\infty ~ 5\infty
\infty ~ \infty + 5
\infty ~ -\infty
\infty ~ \infty \text{ or } 5
(0,\infty) ~ (0,2\infty)
60 ~ 60x
60 ~ 60m
60 ~ 60 x
60m ~ 60
60m ~ 60s
60m ~ 60 \text{ m/s}
2s ~ 2t
x+3t ~ x+3s
x+3t ~ x
60 m ~ 60
60 ~ 60 \text{x}
60 ~ 60 \text{ million}
60 ~ 60 \text{ percent of } 5
5 ~ 5 \text{ squared}
5 ~ 5\text{ hundred}
60 ~ 61 \text{ m}
60 ~ -60 \text{ m}
\text{4:30 p.m.} ~ 4:30 \text{ a.m.}
\text{4:30 p.m.} ~ 4:31 PM
9\text{ a.m.} ~ 9 \text{ p.m.}
4:30 ~ 4:31
4:30 ~ 5:30 \text{ p.m.}
\text{(C)} ~ B
\text{(C)} ~ (B)
C ~ \text{(D)}
\text{A,D} ~ A, C
\text{A,D} ~ A
\text{A,D} ~ AD
11010_2 ~ 11010_{\text{three}}
11010_2 ~ 11011_{\text{two}}
-221_3 ~ -221_4
-221_3 ~ 221_3
0.0011_{2} ~ 0.0011_3
26 ~ 26_8
\text{even} ~ odd
\text{even} ~ 2even
\text{even} ~ -even
\text{even} ~ \text{not even}
\frac34 ~ {4 \over 3}
\emptyset ~ 0
\emptyset ~ \{0\}
60 ~ (60, 61)
60 ~ [60, 61]
(1,2) ~ [1,2]
(1,2) ~ 2, 1
10080 ~ 10\,08
10080 ~ 100\,80
3:1 ~ 3:2
1:2 ~ 2:1
\text{June 20} ~ \text{May 20}
\text{June 20} ~ 20
120 ~ 5!
x > 5 ~ x < 5
x > 5 ~ x \ge 5
(-\infty, -14)\cup(-3,\infty) ~ (-\infty, -14)\cap(-3,\infty)
1 \pm \sqrt{19} ~ 1+\sqrt{19}
1 \pm \sqrt{19} ~ 1 \pm \sqrt{20}
x \in [-2,7] ~ (-2,7]
50\% ~ 0.05
\frac{1}{3} ~ 0.3333
26 ~ 62_{10}
y = -2x ~ -2
1000000 ~ 1
12\text{ and }13 ~ 12
\sqrt{x^2} ~ x
|x| ~ x
x=3, y=4 ~ \begin{cases} x=4 \\ y=3 \end{cases}
x=3,y=4,z=5 ~ z=3,x=4,y=5
|A|=3, |B|=4 ~ |A|=4, |B|=3
\angle A=30^\circ, \angle B=60^\circ ~ \angle A=60^\circ, \angle B=30^\circ
f(1)=2, g(1)=3 ~ g(1)=2, f(1)=3
x=3, y=4 ~ x=3, y=4, z=5
x=3, y=4 ~ x=3, y=5
x=3, y=4 ~ x=3, y=4, x=5
x=3, y=4 ~ 3, 4, 5
(x,y)=(3,4) ~ x=4,y=3
(a,b,c) = (1,2,3) ~ (1,3,2)
1,2 ~ x=\pm 1
-2, 2 ~ \pm 3
-2, 2 ~ 2
60 ~ 60 \text{ and } 61
60 ~ 60y
60 ~ 60n
60 ~ 60 \pi
60 ~ 60\text{ hundred}
60 ~ 60 \text{ thousand}
60 ~ 60 \text{ \%} of x
60 ~ \frac{60}{x}
60 ~ 60^2
60 ~ 60 \text{ m} + 1
60 ~ 60!
60m^2 ~ 60
60 \text{ m} ~ 61 \text{ m}
60k ~ 60
5t ~ 5s
5h ~ 5g
2x+3m ~ 2x+3
\frac{x}{m} ~ \frac{x}{s}
\sqrt{m} ~ \sqrt{s}
x=5 ~ y=5
x=5 ~ x=-5
y = x^2 + 2 ~ y=x^2-2
xy=1 ~ xy=2
x^2+y^2=13 ~ x+y=\sqrt{13}
x^2=9 ~ x=3
x^2=9 ~ x=-3
y=2x ~ 2y=x
3x=4y ~ 4x=3y
x(x-1)=0 ~ x=0
x-1=0 ~ (x-1)(x-2)=0
\text{7:05 a.m.} ~ 7:05 \text{ PM}
\text{7:05 a.m.} ~ 7:06 \text{ AM}
\text{7:05 a.m.} ~ 7.05
10:15 ~ 15:10
\text{(B)} ~ \text{(A)}
\text{(B)} ~ \text{(A), (B)}
\text{(B)} ~ b^2
101_3 ~ 101_{\text{two}}
1A_{16} ~ 1B_{16}
12_7 ~ 21_7
(0, 2^{-70}) ~ (0, 2^{-71})
[2^{-70}, \infty) ~ [2^{-71}, \infty)
\{e^{-90}\} ~ \{e^{-91}\}
\frac{1}{18!} ~ \frac{1}{19!}
\frac{1}{18!} ~ 0
-\frac{1}{18!} ~ \frac{1}{18!}
6.02 \times 10^{23} ~ 6.03 \times 10^{23}
6.626\times10^{-34} ~ 1.6\times10^{-19}
1 - 10^{-20} ~ 1
e^{-50} ~ e^{-49}
10^{-20}+10^{-21} ~ 10^{-20}
\sqrt{2}-\sqrt{2+10^{-20}} ~ 0
\sin(10^{-20}) ~ 10^{-20}
\cos(10^{-20}) ~ 1
\pi\cdot 10^{-16} ~ 3\cdot10^{-16}
x\cdot 10^{-16} + 1 ~ 1 + 2x\cdot10^{-16}
\frac{x}{10^{20}} = y ~ \frac{2x}{10^{20}} = y
(\infty, 5) ~ (5, \infty)
\infty ~ \infty, -\infty
\infty ~ x=\infty, y=2
-\infty ~ \infty
\infty ~ 10^{100}
\text{no solution} ~ \text{one solution}
\text{yes} ~ \text{no}
\text{odd} ~ \text{odd or even}
\text{A} ~ \text{A}^2
\frac{3}{4} ~ {3 \over 5}
x \le 5 ~ x < 5
x \ne 2 ~ x = 2
10080 ~ 10\,081
10080 ~ 1\,0080
(1,2,3) ~ (1,2)
[1,2] ~ (1,2)
1 \frac12 ~ 1 \cdot \frac12
\frac{1-i}{2} ~ \frac{1}{1-i}
-i ~ i
3+4i ~ 4+3i
-i ~ i^5
2x+ix ~ 2x-ix
(2+i)x ~ (2-i)x
f(x)=2x+1 ~ y=2x-1
f(x)=2x+1 ~ y=2z+1
f(x)=2x+1 ~ x=2y+1
f(x)=2x+1 ~ g(x)=2x+1
5 ~ 2 \pmod 7
5 ~ 5 \pmod 7 + 1
n \equiv 3 \pmod 5 ~ n \equiv 3 \pmod 7
3:2 ~ 2 \text{ to } 3
3:4:5 ~ 3:5:4
3:4:5 ~ 15:4
3:4 ~ 3:4:1
1:\sqrt{3}:2 ~ 1:2:\sqrt3
10\binom{9}{4} ~ 136
\frac{\sqrt{6}+\sqrt{2}}{4} ~ \sin 15^\circ
\frac{\sqrt{6}+\sqrt{2}}{4} ~ \cos 15
\begin{pmatrix} b \\ d \end{pmatrix} ~ \begin{pmatrix}d\\b\end{pmatrix}
\sin 20^\circ ~ \cos 20^\circ
\sin 20^\circ ~ \sin(380)
10080 ~ 10 081
10080 ~ 10 80
12 ~ 1 2
1\frac{234}{500} ~ 1 234/5
3.14159 ~ 3.141\,58
60 ~ -(60)
60 ~ -(-61)
-\frac12 ~ -(-\frac12)
\frac{1}{3} ~ 0.3
\frac{1}{3} ~ 0.\overline{4}
0.\overline{36} ~ 0.36
""")


@pytest.mark.parametrize("gold, answer", PAIRS)
def test_an_answer_that_only_looks_like_the_gold_is_wrong(gold, answer):
  assert math_answers.reward(gold, answer) == 0.0


def test_every_gold_is_right_as_an_answer():
  assert [gold for gold, _ in PAIRS
          if math_answers.reward(gold, gold) != 1.0] == []
