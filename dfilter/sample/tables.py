"""The words that questions are made of; facts are common knowledge, the lists are our own."""

from __future__ import annotations

NAMES = (
    "Ana", "Bruno", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Leon",
    "Mina", "Nadia", "Omar", "Paula", "Quentin", "Rosa", "Samir", "Tessa", "Ugo", "Vera", "Walter",
    "Ximena",
    "Yusuf", "Zoe", "Aiko", "Bela", "Chen", "Daria", "Emre", "Freya", "Goran", "Hana", "Ivan", "Julia",
)  # fmt: skip
PLACES = (
    "Lisbon", "Oslo", "Kyoto", "Nairobi", "Quito", "Toronto", "Dublin", "Cairo", "Hanoi", "Porto", "Leeds",
    "Lyon", "Turin", "Bergen", "Gdansk", "Sydney", "Boston", "Lima", "Accra", "Jaipur", "Izmir", "Riga",
    "Graz", "Basel", "Malmo", "Seville", "Austin", "Denver", "Osaka", "Dakar",
)  # fmt: skip
GOODS = (
    "apples", "notebooks", "candles", "tickets", "postcards", "bricks", "tiles", "lemons", "pencils",
    "mugs",
    "stamps", "muffins", "bottles", "ribbons", "lamps", "shells", "coins", "seedlings", "buttons",
    "magazines",
    "cushions", "puzzles", "screws", "blankets", "baskets", "feathers", "marbles", "sandwiches",
    "plates", "keys",
)  # fmt: skip
SHOPS = (
    "bakery", "library", "museum", "school", "garden centre", "hotel", "workshop", "theatre", "farm shop",
    "bookshop", "harbour office", "laboratory", "sports club", "market stall", "post office", "clinic",
)  # fmt: skip
EVENTS = (
    "concert", "lecture", "film", "train ride", "football match", "dance class", "guided tour",
    "ferry crossing",
    "board meeting", "exam", "opera", "flight", "swimming lesson", "cooking course", "chess game",
    "rehearsal",
)  # fmt: skip
WORDS = (
    "anchor", "basket", "cactus", "dolphin", "engine", "feather", "guitar", "harbor", "island", "jacket",
    "kettle", "lantern", "mirror", "needle", "orchard", "pepper", "quartz", "ribbon", "saddle", "tunnel",
    "umbrella", "velvet", "walnut", "yogurt", "zipper", "almond", "bridge", "castle", "desert", "eagle",
    "forest", "garlic", "helmet", "insect", "jungle", "ladder", "magnet", "napkin", "oyster", "pillow",
    "rocket", "shovel", "turtle", "violin", "window", "blanket", "candle", "dragon", "emerald", "fountain",
    "glacier", "hammer", "iceberg", "jasmine", "kitchen", "lizard", "meadow", "noodle", "octopus", "pebble",
    "raven", "sunset", "teapot", "village", "whistle", "bamboo", "copper", "donkey", "elbow", "falcon",
)  # fmt: skip
CAPITALS = {
    "France": ("Paris", "Europe"), "Spain": ("Madrid", "Europe"), "Italy": ("Rome", "Europe"),
    "Norway": ("Oslo", "Europe"), "Greece": ("Athens", "Europe"), "Poland": ("Warsaw", "Europe"),
    "Austria": ("Vienna", "Europe"), "Hungary": ("Budapest", "Europe"), "Ireland": ("Dublin", "Europe"),
    "Finland": ("Helsinki", "Europe"), "Sweden": ("Stockholm", "Europe"), "Portugal": ("Lisbon", "Europe"),
    "Bulgaria": ("Sofia", "Europe"), "Croatia": ("Zagreb", "Europe"), "Iceland": ("Reykjavik", "Europe"),
    "Japan": ("Tokyo", "Asia"), "China": ("Beijing", "Asia"), "Thailand": ("Bangkok", "Asia"),
    "Vietnam": ("Hanoi", "Asia"), "Nepal": ("Kathmandu", "Asia"), "Mongolia": ("Ulaanbaatar", "Asia"),
    "Jordan": ("Amman", "Asia"), "Iraq": ("Baghdad", "Asia"), "Iran": ("Tehran", "Asia"),
    "Lebanon": ("Beirut", "Asia"), "Qatar": ("Doha", "Asia"), "Oman": ("Muscat", "Asia"),
    "Kenya": ("Nairobi", "Africa"), "Ghana": ("Accra", "Africa"), "Senegal": ("Dakar", "Africa"),
    "Morocco": ("Rabat", "Africa"), "Tunisia": ("Tunis", "Africa"), "Ethiopia": ("Addis Ababa", "Africa"),
    "Uganda": ("Kampala", "Africa"), "Zambia": ("Lusaka", "Africa"), "Mali": ("Bamako", "Africa"),
    "Angola": ("Luanda", "Africa"), "Algeria": ("Algiers", "Africa"), "Rwanda": ("Kigali", "Africa"),
    "Peru": ("Lima", "South America"), "Chile": ("Santiago", "South America"),
    "Ecuador": ("Quito", "South America"), "Colombia": ("Bogota", "South America"),
    "Uruguay": ("Montevideo", "South America"), "Paraguay": ("Asuncion", "South America"),
    "Venezuela": ("Caracas", "South America"), "Argentina": ("Buenos Aires", "South America"),
    "Brazil": ("Brasilia", "South America"),
}  # fmt: skip
CATEGORIES = {
    "fruit": ("apple", "banana", "cherry", "mango", "peach", "plum", "grape", "papaya", "apricot", "kiwi"),
    "animal": ("otter", "giraffe", "hamster", "badger", "camel",
        "weasel", "zebra", "moose", "panther", "goat"),
    "tool": ("hammer", "wrench", "chisel", "pliers", "screwdriver",
        "saw", "drill", "crowbar", "clamp", "file"),
    "instrument": ("violin", "flute", "trumpet", "cello", "oboe",
        "banjo", "harp", "drum", "clarinet", "tuba"),
    "colour": ("red", "blue", "green", "yellow", "purple",
        "brown", "grey", "turquoise", "crimson", "beige"),
    "vehicle": ("bus", "truck", "tram", "bicycle", "scooter", "ferry", "van", "lorry", "taxi", "canoe"),
    "garment": ("shirt", "scarf", "jacket", "sock", "skirt",
        "glove", "sweater", "coat", "belt", "trousers"),
    "furniture": ("table", "chair", "sofa", "wardrobe", "desk",
        "shelf", "stool", "cupboard", "bench", "bed"),
    "vegetable": ("carrot", "spinach", "cabbage", "leek", "turnip",
        "celery", "radish", "kale", "beetroot", "pea"),
    "metal": ("iron", "copper", "silver", "zinc", "nickel", "tin", "lead", "gold", "titanium", "aluminium"),
}  # fmt: skip
SPANISH_NOUNS = {
    "dogs": "perros", "cats": "gatos", "books": "libros", "houses": "casas", "trees": "arboles",
    "tables": "mesas", "chairs": "sillas", "birds": "aves", "horses": "caballos", "keys": "llaves",
    "doors": "puertas", "windows": "ventanas", "flowers": "flores", "apples": "manzanas", "eggs": "huevos",
    "shoes": "zapatos", "letters": "cartas", "stones": "piedras", "stars": "estrellas", "bridges": "puentes",
    "boats": "barcos", "rivers": "rios", "fish": "peces", "spoons": "cucharas", "clocks": "relojes",
    "beds": "camas", "rings": "anillos", "knives": "cuchillos", "plates": "platos", "bottles": "botellas",
}  # fmt: skip
SPANISH_NUMBERS = {
    "two": "dos", "three": "tres", "four": "cuatro", "five": "cinco", "six": "seis", "seven": "siete",
    "eight": "ocho", "nine": "nueve", "ten": "diez", "eleven": "once", "twelve": "doce", "thirteen": "trece",
    "fourteen": "catorce", "fifteen": "quince",
}  # fmt: skip
VERBS = (  # present, past, participle, objects
    ("paints", "painted", "painted",
     ("the old fence", "a small portrait", "the front door", "the kitchen wall")),
    ("writes", "wrote", "written",
     ("a long letter", "the annual report", "a short poem", "the shopping list")),
    ("repairs", "repaired", "repaired",
     ("the broken bicycle", "a leaking tap", "the stone bridge", "an old radio")),
    ("sells", "sold", "sold", ("fresh bread", "the family car", "a silver watch", "the last ticket")),
    ("carries", "carried", "carried",
     ("a heavy suitcase", "the wooden crate", "the groceries", "a folded tent")),
    ("builds", "built", "built", ("a stone wall", "the model ship", "a wooden shed", "the new stage")),
    ("reads", "read", "read",
     ("the morning paper", "a detective novel", "the instructions", "the contract")),
    ("finds", "found", "found", ("a lost wallet", "the hidden path", "an old map", "the missing key")),
    ("breaks", "broke", "broken", ("the glass vase", "a dry branch", "the world record", "the window")),
    ("steals", "stole", "stolen", ("the painting", "a loaf of bread", "the spare key", "the show")),
    ("draws", "drew", "drawn", ("a careful sketch", "the floor plan", "a blue circle", "the coastline")),
    ("teaches", "taught", "taught",
     ("the evening class", "an introductory course", "the new recruits", "the choir")),
    ("cleans", "cleaned", "cleaned", ("the dusty attic", "the fish tank", "the chimney", "a muddy boot")),
    ("drives", "drove", "driven",
     ("the school bus", "a rented van", "the fire engine", "a yellow tractor")),
    ("chooses", "chose", "chosen",
     ("the winning design", "a quiet room", "the red curtains", "the next captain")),
)  # fmt: skip
ROLES = (
    "gardener", "teacher", "pilot", "nurse", "sailor", "painter", "lawyer", "farmer", "student", "chef",
    "engineer", "librarian", "tailor", "doctor", "musician", "plumber", "journalist", "guard", "potter",
    "clerk",
)  # fmt: skip
WHENS = (
    "in the morning", "after lunch", "on Sunday", "before the storm", "in the harbour", "behind the house",
    "every week", "near the station", "during the holidays", "at the market", "with great care", "by hand",
)  # fmt: skip
PRAISE = (
    "The staff went out of their way to help", "Everything worked from the first day",
    "The quality is far better than expected", "Delivery was quick and the packaging perfect",
    "A delightful experience from start to finish", "Worth every penny", "It has not failed once in a year",
    "The flavours were wonderful", "Friends keep asking where it was bought",
    "The view alone was worth the trip",
)  # fmt: skip
BLAME = (
    "It broke after two days", "The staff were rude and slow", "A complete waste of money",
    "The description does not match the product at all", "Nobody ever answered the complaint",
    "The room smelled of damp and smoke", "The food arrived cold and bland",
    "Half of the parts were missing", "The noise made it impossible to sleep",
    "The battery dies within an hour",
)  # fmt: skip
REVIEWED = (
    "this blender", "the seaside hotel", "the new headphones", "this walking tour", "the corner cafe",
    "the folding bike", "this language course", "the camping tent", "the night train", "this desk lamp",
    "the pottery workshop", "the rain jacket", "this coffee grinder", "the city museum",
    "the budget airline",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """Return a number from 0 to 999 in English words."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{_ONES[number // 100]} hundred{rest}"
