"""Answers that say the same as a gold otherwise, and answers that do not.

A line is a gold and an answer.
"""

import pytest

from dlrl.tasks.mathematics import competition

RIGHT = r"""
AB=9, CD=4 ~ CD=4, AB=9
x=3, y=4 ~ y=4, x=3
4x-5y=-50 ~ y=\frac{4}{5}x+10
y = 2x + 3 ~ 2x-y+3=0
x+y=5 ~ y=5-x
1,2 ~ x=1, x=2
60 ~ 60 \text{ m}^2
60 ~ 60 \text{ km/h}
2.5 ~ 2.5 \text{ L}
125 ~ 125\textnormal{ miles}
60^\circ ~ 60^\circ \text{C}
18\sqrt{3} \text { square inches} ~ 18\sqrt{3}
60 ~ a_{10} = 60
60 ~ |S| = 60
\text{4:30 p.m.} ~ \text{4:30 PM}
\text{A,D} ~ A \text{ and } D
\frac{3}{4} ~ \cfrac{3}{4}
\frac{1}{2^{100}} ~ 2^{-100}
e^{-100} ~ \frac{1}{e^{100}}
\sqrt{5+2\sqrt{6}} ~ \sqrt{2}+\sqrt{3}
\binom{100}{50} ~ \frac{100!}{50!50!}
\frac{\pi^2}{6\cdot10^{20}} ~ \frac{\pi^2}{6}\times 10^{-20}
1.6\times 10^{-19} ~ 16\times 10^{-20}
\log_2 3 ~ \frac{\ln 3}{\ln 2}
(1,\frac{1}{2^{60}}) ~ (1, 2^{-60})
\{\frac{1}{2^{60}}, 1\} ~ \{1, 2^{-60}\}
[0, e^{-50}) ~ [0, \frac{1}{e^{50}})
AB=9, CD=4 ~ CD=4 \text{ and } AB=9
x=3, y=4 ~ y = 4, \quad x = 3
x=3, y=4 ~ (x,y)=(3,4)
(x,y)=(3,4) ~ x=3, y=4
(x,y)=(3,4) ~ (3,4)
f(2)=5, f(3)=7 ~ f(3)=7, f(2)=5
P(A)=\frac12, P(B)=\frac13 ~ P(B)=\frac13, P(A)=0.5
a_1=2, a_2=5 ~ a_2=5, a_1=2
\angle A = 60^\circ, \angle B = 30^\circ ~ \angle B = 30, \angle A = 60
60 ~ \angle ABC = 60^\circ
60 ~ m\angle A=60
60 ~ f(-1) = 60
60 ~ P(A)=60
60 ~ |S|=60
60 ~ \text{Area} = 60
60 ~ a_{10}=60
60 ~ a_{10} = 60 \text{ cm}
60 ~ \overline{AB}=60
60 ~ 60 = x
60 ~ S_{10} = 60
60 ~ f'(2) = 60
60 ~ f^{-1}(3) = 60
60 ~ (f\circ g)(2)=60
60 ~ n(A \cup B) = 60
60 ~ [ABC] = 60
60 ~ \mu = 60
60 ~ \#S = 60
60 ~ \theta = 60^\circ
y=2x+3 ~ 2x-y+3=0
y=2x+3 ~ y-2x=3
y=2x+3 ~ 2y = 4x+6
4x-5y=-50 ~ 5y=4x+50
x+y=5 ~ 2x+2y=10
x^2+y^2=13 ~ x^2+y^2-13=0
\frac{x^2}{16} - \frac{y^2}{9} = 1 ~ 9x^2-16y^2=144
y = \frac{1}{2} x + 2 ~ y = 0.5x+2
y=-2x ~ 2x+y=0
x=5 ~ 5=x
5 ~ 5=x
1,2 ~ x=1 \text{ or } x=2
1,2 ~ x=2, x=1
1,2 ~ x_1 = 1, x_2 = 2
1,2 ~ x=1 or x=2
1,2 ~ 1 \text{ and } 2
x=1, x=2 ~ x \in \{1,2\}
x = 2, -2 ~ x = \pm 2
1 \pm \sqrt{19} ~ 1+\sqrt{19}, 1-\sqrt{19}
\{1\pm\sqrt{5},-2\} ~ \{-2, 1-\sqrt5, 1+\sqrt5\}
-1,0,1 ~ x=-1, x=0, x=1
60 ~ 60 \text{ m}
60 ~ 60\text{ m}^2
60 ~ 60 \mathrm{~m}
60 ~ 60\,\mathrm{km/h}
60 ~ 60 \text{ m/s}^2
60 ~ 60 \text{ m/s}
60 ~ 60\ \text{kW}
2.5 ~ 2.5\text{ L}
60 ~ 60 \text{ mL}
60 ~ 60 \textnormal{ cm}
60 ~ 60 cm
60 ~ 60 km/h
60 ~ 60 m
60 ~ 60~m/s
60 ~ 60 \text{ cubic feet}
60 ~ 60 \text{ square inches}
60 ~ 60 \text{ sq. in.}
60 ~ 60 \text{ dollars}
60 ~ \$60
60 ~ \text{\$}60
60 ~ 60 \text{ J}
60 ~ 60^\circ\text{C}
60 ~ 60^\circ\mathrm{F}
60 ~ 60^\circ C
60 ~ 60\text{ degrees}
60 ~ 60\text{ degrees Celsius}
60 ~ 60 \text{ kg}\cdot\text{m}/\text{s}^2
60^\circ ~ 60 \text{ degrees}
144 \mbox{ m}^3 ~ 144
12 \text{ gm} ~ 12
\frac{3}{4}\pi\text{ inches} ~ \frac{3\pi}{4}
99\pi \text{ square inches} ~ 99\pi
8\sqrt{3} \text { square inches} ~ 8\sqrt{3} \text{ in}^2
18\sqrt{3} \text { square inches} ~ 18\sqrt3
18\sqrt{3} ~ 18\sqrt{3} cm
\sqrt{2} ~ \sqrt{2} \text{ m}
(3, 4) ~ (3 \text{ cm}, 4 \text{ cm})
3, 4 ~ 3 \text{ cm and } 4 \text{ cm}
\text{4:30 p.m.} ~ 4:30 PM
\text{4:30 p.m.} ~ 4:30 \text{ p.m.}
\text{4:30 p.m.} ~ \text{4:30pm}
\text{1:03 PM} ~ 1:03 \text{ p.m.}
9\text{ a.m.} ~ 9:00 \text{ AM}
9\text{ a.m.} ~ 9 \text{ AM}
4:30 ~ 4:30 \text{ p.m.}
\text{(C)} ~ C
\text{(C)} ~ (C)
\text{(C)} ~ \textbf{(C)}
\text{(C)} ~ \text{C}
\text{C} ~ \text{(C)}
C ~ \text{(C)}
C ~ (C)
\text{A,D} ~ A, D
\text{A,D} ~ \text{D and A}
\text{B, E, G} ~ B, E \text{ and } G
\text{B, E, G} ~ \text{B}, \text{E}, \text{G}
11010_2 ~ 11010_{\text{two}}
11010_2 ~ 11010_{two}
11010_2 ~ (11010)_2
11010_2 ~ 11010 \text{ base } 2
11010_2 ~ 11010_{\text{base 2}}
152A_{11} ~ 152A_{\text{eleven}}
-221_3 ~ -221_{three}
0.0011_{2} ~ 0.0011_2
\text{even} ~ \textit{even}
\text{even} ~ \mathrm{Even}
\text{even} ~ \textbf{even}
\text{even} ~ even
\frac34 ~ \cfrac{3}{4}
\frac34 ~ \dfrac34
\frac34 ~ {3 \over 4}
\frac34 ~ 3\over 4
\frac34 ~ {{3} \over {4}}
\frac{x+1}{2} ~ {x+1 \over 2}
\emptyset ~ \varnothing
\emptyset ~ \{\}
60 ~ (60)
60 ~ {60}
60 ~ ((60))
\sqrt2 ~ (\sqrt{2})
10080 ~ 10\,080
10080 ~ 10{,}080
10080 ~ 10,\!080
1234567 ~ 1\,234\,567
1234567 ~ 1~234~567
\frac{14}{3} ~ \textbf{\frac{14}{3}}
\frac{14}{3} ~ \mathbf{\frac{14}{3}}
\frac{14}{3} ~ \boldsymbol{\dfrac{14}{3}}
\frac{14}{3} ~ \displaystyle \frac{14}{3}
\infty ~ +\infty
\infty ~ \text{infinity}
(-\infty, 2) ~ (-\infty, 2)
(-\infty, -14)\cup(-3,\infty) ~ (-3,\infty) \cup (-\infty,-14)
(-\infty, 0] ~ (-\infty,0]
x \in [-2,7] ~ [-2,7]
3 \pm 2 \sqrt{2} ~ 3 - 2\sqrt2, 3+2\sqrt{2}
3:1 ~ 3 : 1
111, \! 111, \! 111 ~ 111,111,111
\frac{12}{5,\!525} ~ \frac{12}{5525}
7, -2, \text{ and } -5 ~ -5, -2, 7
0,3a ~ 3a, 0
\frac{1}{1+x} ~ \frac{1}{x+1}
50\% ~ 0.5
\begin{pmatrix}2^{-70}\\1\end{pmatrix} ~ \begin{pmatrix}0.5^{70}\\1\end{pmatrix}
\text{June 20} ~ June 20
\text{neither} ~ neither
x > 5 ~ 5 < x
f(2) < f(1) < f(4) ~ f(2)<f(1)<f(4)
a=9 ~ 9
1,234 ~ 1234
26 ~ 26_{10}
3.5 ~ 3\frac12
3.5 ~ \frac{7}{2} \text{ hours}
\pi ~ π
60 ~ 60°
\frac{7}{2} ~ \tfrac72
1000000 ~ 1 \text{ million}
-\frac12 ~ -{1\over2}
\left(3, \frac{\pi}{2}\right) ~ \left( 3, \frac{\pi}{2} \right)
"""
WRONG = r"""
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
"""


def pairs(table):
  return [tuple(line.split(" ~ ")) for line in table.splitlines() if line]


def reward(gold, answer):
  [value] = competition.correct_reward(
    [""], [rf"so \boxed{{{answer}}}"], answer=[gold])
  return value


@pytest.mark.parametrize("gold, answer", pairs(RIGHT))
def test_the_same_answer_in_another_form_is_right(gold, answer):
  assert reward(gold, answer) == 1.0


@pytest.mark.parametrize("gold, answer", pairs(WRONG))
def test_an_answer_that_only_looks_like_the_gold_is_wrong(gold, answer):
  assert reward(gold, answer) == 0.0


@pytest.mark.parametrize("gold", [gold for gold, _ in pairs(RIGHT + WRONG)])
def test_every_gold_is_right_as_an_answer(gold):
  assert reward(gold, gold) == 1.0
