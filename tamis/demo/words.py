"""The small closed vocabularies the demo's skills are made of. All of it was written for tamis."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


WORDS = _words(
    "apple ball bell boat bread bridge chair coat crown door farm fire fork gate hand hat jar "
    "king leaf map nose onion pen plate ring river shoe spoon stone table tree wall window"
)
SHORT = _words(
    "bag bat bed bus cap car cow cup dog fan fox gem hut ice ink kit leg log mat net nut owl "
    "pan pig pot rat rug sea sky tap van web"
)
NAMES = _words("Anna Ben Carla David Emma Felix Greta Hugo Ida Jonas Karla Leo Mara Nils Olga Paul")
THINGS = _words(
    "apples books coins cups eggs hats keys lemons nuts pears pens plums rings shells spoons stamps"
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
# big unit, small unit, how many small ones make a big one, least and largest count asked for
UNITS = (
    ("metres", "centimetres", 100, 10, 60),
    ("kilometres", "metres", 1000, 10, 60),
    ("kilograms", "grams", 1000, 10, 60),
    ("litres", "millilitres", 1000, 10, 60),
    ("euros", "cents", 100, 10, 60),
    ("centimetres", "millimetres", 10, 10, 60),
    ("tonnes", "kilograms", 1000, 10, 60),
    ("weeks", "days", 7, 2, 10),
)
# English, German, French, Spanish
LEXICON = tuple(
    tuple(line.split())
    for line in """
dog Hund chien perro
cat Katze chat gato
house Haus maison casa
water Wasser eau agua
bread Brot pain pan
tree Baum arbre árbol
sun Sonne soleil sol
moon Mond lune luna
book Buch livre libro
hand Hand main mano
fire Feuer feu fuego
milk Milch lait leche
fish Fisch poisson pez
bird Vogel oiseau pájaro
day Tag jour día
door Tür porte puerta
horse Pferd cheval caballo
apple Apfel pomme manzana
city Stadt ville ciudad
table Tisch table mesa
""".strip().splitlines()
)
LANGUAGES = ("German", "French", "Spanish")
# animal, legs, sound, home
ANIMALS = (
    ("dog", 4, "barks", "kennel"),
    ("cow", 4, "moos", "barn"),
    ("bee", 6, "buzzes", "hive"),
    ("lion", 4, "roars", "savanna"),
    ("duck", 2, "quacks", "pond"),
    ("hen", 2, "clucks", "coop"),
    ("owl", 2, "hoots", "forest"),
    ("pig", 4, "grunts", "sty"),
    ("horse", 4, "neighs", "stable"),
    ("frog", 4, "croaks", "marsh"),
    ("snake", 0, "hisses", "desert"),
    ("wolf", 4, "howls", "den"),
    ("crow", 2, "caws", "nest"),
    ("cricket", 6, "chirps", "grass"),
)
# thing and colour in English, German, Chinese
COLOURS = tuple(
    tuple(line.split())
    for line in """
lemon yellow Zitrone gelb 柠檬 黄色
grass green Gras grün 草 绿色
snow white Schnee weiß 雪 白色
coal black Kohle schwarz 煤 黑色
tomato red Tomate rot 番茄 红色
ocean blue Ozean blau 大海 蓝色
carrot orange Möhre orange 胡萝卜 橙色
plum purple Pflaume lila 李子 紫色
flamingo pink Flamingo rosa 火烈鸟 粉色
elephant grey Elefant grau 大象 灰色
banana yellow Banane gelb 香蕉 黄色
frog green Frosch grün 青蛙 绿色
milk white Milch weiß 牛奶 白色
strawberry red Erdbeere rot 草莓 红色
sky blue Himmel blau 天空 蓝色
bark brown Rinde braun 树皮 棕色
""".strip().splitlines()
)
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("high", "low"),
    ("old", "new"),
    ("rich", "poor"),
    ("dry", "wet"),
    ("hard", "soft"),
    ("early", "late"),
    ("full", "empty"),
    ("loud", "quiet"),
    ("open", "closed"),
    ("strong", "weak"),
    ("long", "short"),
    ("happy", "sad"),
    ("clean", "dirty"),
)
CITIES = _words(
    "Bern Graz Oslo Lyon Porto Turin Gent Bonn Kiel Linz Genoa Malmo Leeds Cork Split Vigo"
)
SKIES = ("sunny", "rainy", "cloudy", "windy", "foggy", "snowy")
GOODS = _words("bread milk rice salt soap honey butter flour coffee tea")
