"""Answers that say the same as the gold otherwise."""

import math_answers
import pytest

PAIRS = math_answers.pairs(r"""
12\text{ pm} ~ 12
5\text{ east} ~ 5
x = 1 \pm 2 ~ 3, -1
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
60 ~ \text{60 m}
60 ~ \text{60 km/h}
60 ~ \mathrm{60 cm}
60 ~ \text{60 dollars}
60 ~ x = 60 \text{ m}
60 ~ \text{Speed} = 60 \text{ km/h}
60 ~ 60 \text{ m}^{2}
60 ~ 60\,\text{m}^2
60 ~ 60 \text{ m$^2$}
60 ~ 60 \text{ sq units}
60 ~ 60 \text{ units}^2
60 ~ 60\text{ mph}
60 ~ 60 \text{ m}^3/\text{s}
60 ~ 60 \frac{\text{m}}{\text{s}}
60 ~ 60\ \mathrm{kg\cdot m/s^2}
60 ~ 60 \text{ N} \cdot \text{m}
60 ~ 60 \; \Omega
60 ~ 60 \text{ °C}
60 ~ 60 \mathrm{^\circ C}
60 ~ 60 \text{ inches squared}
60 ~ 60 \text{ Hz}
60 ~ 60\text{ people}
60 ~ 60 \text{ ways}
60 \text{ m} ~ 60
60 \text{ m}^2 ~ 60 \text{ m}^2
60 \text{ L} ~ 60 \text{ liters}
2.5\text{ L} ~ \frac52
60 \text{ km/h} ~ 60
1,2 ~ x \in \{1, 2\}
1,2 ~ \{1,2\}
1,2 ~ x=1; x=2
1,2 ~ x = 1, 2
1,2 ~ x=1 \quad \text{or} \quad x=2
1,2 ~ 1 \text{ or } 2
1,2 ~ x=1 \lor x=2
1,2 ~ x_{1}=1,\; x_{2}=2
-2, 2 ~ \pm 2
-2, 2 ~ x=\pm2
x=3, y=4 ~ x = 3 \text{ and } y = 4
x=3, y=4 ~ \begin{cases} x=3 \\ y=4 \end{cases}
x=3, y=4 ~ 3, 4
x=3,y=4,z=5 ~ z=5,x=3,y=4
AB=9, CD=4 ~ CD = 4 \text{ cm}, AB = 9 \text{ cm}
AB=9, CD=4 ~ \overline{CD}=4, \overline{AB}=9
a=2, b=-3 ~ b = -3, \, a = 2
(x,y) = (3,4) ~ (3, 4)
(a,b,c) = (1,2,3) ~ (1,2,3)
|A|=3, |B|=4 ~ |B|=4, |A|=3
\angle A=30^\circ, \angle B=60^\circ ~ \angle B = 60^\circ, \angle A=30^\circ
f(1)=2, g(1)=3 ~ g(1)=3, f(1)=2
60 ~ \angle{ABC}=60^\circ
60 ~ |AB| = 60
60 ~ n = 60
60 ~ f(x) = 60
60 ~ a_{n+1} = 60
60 ~ P(X \ge 2) = 60
60 ~ P(X = 2) = 60
60 ~ f(g(2)) = 60
60 ~ |A \cup B| = 60
60 ~ \det A = 60
60 ~ \sin\theta = 60
60 ~ x^* = 60
60 ~ 60.0
60 ~ \textbf{60}
60 ~ \mathbf{60}
60 ~ \textbf{(60)}
60 ~ \boldsymbol{60}
60 ~ \underline{60}
\text{(B)} ~ \textbf{B}
\text{(B)} ~ \mathrm{(B)}
\text{(B)} ~ \mathbf{(B)}
\text{(B)} ~ (\text{B})
B ~ \textbf{(B)}
\text{B} ~ B.
\text{B} ~ \text{B.}
\text{7:05 a.m.} ~ 7:05 \text{ AM}
\text{7:05 a.m.} ~ 7\!:\!05 \text{ a.m.}
\text{7:05 a.m.} ~ 7:05\text{ A.M.}
\text{7:05 a.m.} ~ 07:05 \text{ am}
10:15 ~ 10\!:\!15
2:30 \text{ PM} ~ \text{2:30 p.m.}
11010_2 ~ 11010_{(2)}
101_{3} ~ 101_{\text{base three}}
1A_{16} ~ 1A_{\text{sixteen}}
12_7 ~ \text{12}_7
12_7 ~ 12 \text{ in base 7}
\frac{a}{b} ~ {a\over b}
\frac{1}{2} ~ 1/2
\frac{1}{2} ~ \frac{1}{2}\,
\frac{\sqrt{3}}{2} ~ {\sqrt{3} \over 2}
\binom{5}{2} ~ {5 \choose 2}
10080 ~ 10\;080
12345678 ~ 12\,345\,678
\text{no solution} ~ \textit{No solution}
\text{yes} ~ \text{Yes.}
\text{Alice} ~ \textsf{Alice}
y = mx + b ~ mx - y + b = 0
y = x^2 + 2 ~ x^2 - y + 2 = 0
xy=1 ~ y=\frac{1}{x}
3x = 4y ~ y = \frac{3}{4} x
x=-\frac{1}{2} ~ x = -0.5
x = 5 ~ 5
e^{-50} ~ \exp(-50)
\log_{10} 2 ~ \frac{\ln 2}{\ln 10}
\frac{1}{\sqrt{2}}\cdot 10^{-30} ~ \frac{\sqrt{2}}{2}\times 10^{-30}
\cos 20^\circ\cos 40^\circ ~ \cos 40^\circ \cos 20^\circ
\left(\frac{1}{2}\right)^{64} ~ 2^{-64}
\frac{1}{18!} ~ \frac{1}{18 \cdot 17!}
1 - 10^{-20} ~ 0.99999999999999999999
6.02 \times 10^{23} ~ 602 \times 10^{21}
(2^{-70}, 1] ~ (\frac{1}{2^{70}}, 1]
\emptyset ~ \{ \}
\emptyset ~ ∅
[0,\infty) ~ [0, +\infty)
(-\infty, \infty) ~ \mathbb{R}
x \le 5 ~ x \leqslant 5
x \ne 2 ~ x \neq 2
\frac{1-i}{2} ~ \frac{1}{1+i}
1/(1+i) ~ (1-i)/2
-i ~ \frac{1}{i}
-i ~ i^3
\frac{3}{5} - \frac{4}{5} i ~ \frac{3-4i}{5}
e^{i\pi/4} ~ \frac{\sqrt2}{2}+\frac{\sqrt2}{2}i
(2+i)x ~ 2x+ix
f(x)=2x+1 ~ y=2x+1
y=2x+1 ~ f(x)=2x+1
5 ~ 5 \pmod{7}
5 ~ x \equiv 5 \pmod 7
5 ~ 5 \text{ (mod 7)}
n \equiv 3 \pmod 5 ~ 3 \pmod 5
3:2 ~ 3 \text{ to } 2
3:4:5 ~ 3 : 4 : 5
3:4 ~ \frac{3}{4}
1:\sqrt{3}:2 ~ 1:\sqrt3:2
10\binom{9}{4} ~ \binom{9}{4}\cdot 10
10\binom{9}{4} ~ 1260
\sin 20^\circ ~ \cos 70^\circ
2\cos^2 20^\circ - 1 ~ \cos(40^\circ)
10,\!080 ~ 10 080
1,234,567 ~ 1 234 567
-10080 ~ -10 080
10080 ~ 10 080 \text{ km}
3.14159 ~ 3.141\,59
60 ~ -(-60)
-60 ~ -(60)
-\frac12 ~ -(\frac12)
\frac{\sqrt{6}+\sqrt{2}}{4} ~ \cos 15^\circ
\begin{pmatrix} b \\ d \end{pmatrix} ~ \begin{pmatrix}b\\d\end{pmatrix}
0.\overline{3} ~ \frac{1}{3}
\frac{1}{6} ~ 0.1\overline{6}
-\frac{7}{3} ~ -2.\overline{3}
""")


@pytest.mark.parametrize("gold, answer", PAIRS)
def test_the_same_answer_in_another_form_is_right(gold, answer):
  assert math_answers.reward(gold, answer) == 1.0


def test_every_gold_is_right_as_an_answer():
  assert [gold for gold, _ in PAIRS
          if math_answers.reward(gold, gold) != 1.0] == []
