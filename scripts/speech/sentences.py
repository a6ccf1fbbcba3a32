"""What the synthetic speakers say, by language; written for this project, with many lip closures and all vowels."""

import numpy as np

TRAIN = {
    "en": [
        "My baby bought a purple map, and nobody moved.",
        "We were away a year ago, weren't you?",
        "Please put the big book back above the lamp.",
        "Five brave women found the river before evening.",
        "I can't believe you made it home by five.",
        "The weather forecast promises sunshine, maybe tomorrow.",
        "Could you tell me where the museum is?",
        "They often sing together when the moon is high.",
        "Bob and Pam pick peppers from the garden.",
        "She opened the window, and the cold wind came in.",
        "Nobody knows how the old machine works.",
        "My mother's boat floats quietly on the water.",
        "Thank you very much for everything you did.",
        "Ask him whether the shop is open on Monday.",
        "A small fish jumps over the wooden bridge.",
        "What a wonderful painting, who made it?",
        "The judge will choose a measure of treasure.",
        "Open your mouth, close your eyes, and wait.",
        "Two young boys were chewing yellow gum.",
        "Remember the number, maybe we'll need it.",
        "Her new job keeps her busy until September.",
        "Look at those huge clouds over the valley.",
        "I prefer brown bread with butter and plum jam.",
        "Stop, the bus leaves from platform number three.",
        "No, I never said that you should go.",
        "Every morning a big brown bird sings above my room.",
        "The children laughed, but the teacher remained calm.",
        "Wait for me, I'm almost ready to leave.",
    ],
    "de": [
        "Meine Mutter bringt am Abend bunte Blumen mit.",
        "Wo ist bitte der Bahnhof, und wann fährt der Zug?",
        "Paul bäckt prima Brot mit viel Butter.",
        "Über allen Bergen liegt schon früher Schnee.",
        "Komm bald wieder, wir warten auf dich.",
        "Ich möchte heute Nachmittag im Wald spazieren.",
    ],
    "fr": [
        "Ma mère prépare un bon repas pour mes amis.",
        "Où est la belle robe bleue, s'il vous plaît?",
        "Bonjour monsieur, je voudrais une baguette et du beurre.",
        "Le petit bateau passe sous le pont le matin.",
        "Nous pouvons partir demain, peut-être à midi.",
    ],
    "es": [
        "Mi mamá prepara pan blanco por la mañana.",
        "Buenos días, dónde está la biblioteca?",
        "Pablo y Bruno compran vino para el viernes.",
        "El público aplaude mucho, y la música empieza.",
        "Nunca había visto un pueblo tan bonito.",
    ],
    "it": [
        "La mamma prepara una buona pasta al pomodoro.",
        "Buongiorno, dove posso comprare un biglietto?",
        "Il bambino beve il latte e poi va a dormire.",
        "Domani mattina partiamo per Bologna, forse.",
        "Che bella giornata, andiamo al mare!",
    ],
    "nl": [
        "Mijn buurman bouwt een boot van bruin hout.",
        "Waar is het museum, en wanneer gaat het open?",
        "Morgen komen mijn moeder en mijn broer op bezoek.",
        "De kleine vogel vliegt boven de brede rivier.",
        "Ik wil graag brood met boter en pindakaas.",
    ],
    "pt": [
        "Minha mãe comprou um bolo bom para a família.",
        "Bom dia, onde fica a biblioteca pública?",
        "O menino pequeno bebe água e brinca na praia.",
        "Amanhã vamos embora, talvez bem cedo.",
    ],
    "fi": [
        "Minun pieni poikani puhuu paljon aamulla.",
        "Missä on museo, ja milloin se avataan?",
        "Mummo paistaa pullaa, ja me juomme maitoa.",
        "Kaunis lumi peittää vanhan puutalon.",
    ],
    "sv": [
        "Min mamma bakar bröd med mycket smör.",
        "Var ligger biblioteket, och när öppnar det?",
        "Pojken bor på en ö och båten går på morgonen.",
        "Vi möts imorgon bitti, om vädret blir bra.",
    ],
    "tr": [
        "Benim annem bahçede pembe bir çiçek buldu.",
        "Müze nerede, ve saat kaçta açılıyor?",
        "Babam bu sabah büyük bir ekmek pişirdi.",
        "Yarın belki beraber bir film izleriz.",
    ],
    "cs": [
        "Moje maminka peče dobrý chléb a bábovku.",
        "Kde je muzeum, a kdy bude otevřeno?",
        "Malý pes běží podle vody a potom spí.",
        "Zítra možná půjdeme všichni na procházku.",
    ],
    "ru": [
        "Моя мама купила большую белую рыбу.",
        "Где находится музей, и когда он открыт?",
        "Папа и брат поехали вместе на поезде.",
        "Завтра, может быть, будет хорошая погода.",
    ],
    "hi": [
        "मेरी माँ बाजार से फल और पानी लाती है।",
        "आपका नाम क्या है, और आप कहाँ रहते हैं?",
        "बच्चे बाग में खेल रहे हैं और गा रहे हैं।",
        "कल शायद बारिश होगी, छाता लेकर जाना।",
    ],
    "ca": [
        "La meva mare prepara bon pa cada matí.",
        "Bon dia, on puc comprar un bitllet?",
        "El nen petit beu aigua i dorm molt bé.",
        "Demà potser anirem tots a la platja.",
    ],
}
MORE = {  # for the speakers that were added later
    "en": [
        "Fresh fish from Fuji flew over five foggy fields.",
        "The quick brown fox is jumping over lazy puppies.",
        "You should have heard what father whispered to me.",
        "Eight huge elephants ate apples at the zoo.",
        "Don't push the button before we've measured everything.",
        "Why are those people marching up the boulevard?",
        "I'd rather have a cup of coffee with milk.",
        "Her voice was warm, but the room felt empty.",
        "Sheep sleep deeply beneath the green trees.",
        "Goodness, what a pretty purple umbrella you brought!",
        "He hopes to have half a hundred houses.",
        "Move the chairs, sweep the floor, and wipe the table.",
        "The boy enjoyed his toy, then destroyed it.",
        "Who knew that two blue moons would bloom in June?",
        "Perhaps my brother wrote about the burning church.",
        "Last winter was awfully cold and terribly long.",
        "Vivid violet flowers cover every valley.",
        "Come over whenever you want, we're always home.",
        "It seems this ship has seen a thousand seas.",
        "Both of them thought the path was smooth.",
        "Jump higher, George, or you'll never catch the bus!",
        "My uncle from Boston plays the trumpet badly.",
        "The farmer's market opens at half past four.",
        "We were wondering whether you would walk with William.",
        "A bad map made Pam and Abby late.",
        "Yes, of course, that sounds like a lovely idea.",
        "All small dogs bark at the tall mailman.",
        "She sells shiny sea shells, he chews cheap cheese.",
    ],
    "de": [
        "Bitte bringen Sie mir ein Bier und eine Brezel.",
        "Fünf Frösche hüpfen fröhlich über die Wiese.",
        "Warum hast du mir nie davon erzählt?",
        "Schöne Schuhe stehen schon lange im Schaufenster.",
        "Oma und Opa wohnen am Meer, wo es oft stürmt.",
    ],
    "fr": [
        "Pourquoi veux-tu partir avant la fin du film?",
        "Un beau papillon bleu vole au-dessus du jardin.",
        "J'aime beaucoup les pommes, mais pas les poires.",
        "Chaque jeudi, Jacques joue aux échecs chez lui.",
        "Tu as vu la lune hier, elle était immense.",
    ],
    "es": [
        "Por favor, abre la puerta y pon la mesa.",
        "Mi hermano mayor vive en un barrio muy ruidoso.",
        "Los chicos juegan al fútbol bajo la lluvia.",
        "Qué hermosa está la luna sobre el mar!",
        "Ya no me acuerdo del número de tu abuela.",
    ],
    "it": [
        "Per favore, apri la finestra e chiudi la porta.",
        "Mio fratello suona il pianoforte ogni pomeriggio.",
        "Quanto costano queste belle scarpe rosse?",
        "La pioggia bagna i fiori bianchi del giardino.",
        "Non ho mai visto un film così buffo.",
    ],
}
HELD_OUT = {
    "en": [
        "Maybe Peter bought both blue boats from Bob.",
        "How are you feeling, my old friend?",
        "People from the village came above the bridge to watch.",
        "We saw three ships sailing home at noon.",
        "Turn the music up, please, I love this part.",
        "An apple a day may keep problems away.",
    ],
    "pl": [
        "Moja mama kupiła białe buty i pomarańcze.",
        "Gdzie jest muzeum, i kiedy będzie otwarte?",
        "Pan Paweł pije wodę, a potem biegnie do pracy.",
        "Może jutro pojedziemy razem nad morze.",
        "Mały pies bawi się piłką pod oknem.",
    ],
    "hr": [
        "Moja mama peče dobar kruh ujutro.",
        "Gdje je muzej, i kada se otvara?",
        "Mali brat pliva prema bijelom brodu.",
        "Možda ćemo sutra putovati zajedno.",
    ],
}
_ONSETS = ("p", "b", "m", "p", "b", "m", "f", "v", "t", "d", "k", "g", "s", "n", "l", "r", "pl", "br", "st", "")
_VOWELS = ("a", "e", "i", "o", "u", "a", "o", "ai", "au")
_CODAS = ("", "", "", "n", "m", "p", "s", "l", "r", "t")


def invented(texts: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    """Sentences without sense: words of `texts` in any order, and words that are none where letters are Latin."""
    words = [word.strip(".,?!").lower() for text in texts for word in text.split()]
    latin = all(letter < "\u0250" for word in words for letter in word)
    sentences = []
    for _ in range(count):
        chosen = []
        for _ in range(int(rng.integers(5, 9))):
            if latin and rng.random() < 0.5:
                syllables = range(int(rng.integers(1, 4)))
                chosen.append("".join(str(rng.choice(part)) for _ in syllables for part in (_ONSETS, _VOWELS, _CODAS)))
            else:
                chosen.append(words[rng.integers(len(words))])
        pause = int(rng.integers(2, 5))
        sentences.append(" ".join(chosen[:pause]) + rng.choice([",", ""]) + " " + " ".join(chosen[pause:]) + ".")
    return sentences
