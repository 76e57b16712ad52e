"""The sixteen everyday domains of the demo world, with their topics and the phrases that answers are built from.

This module holds data only. Each phrase fits every topic of its domain, so any combination makes sense. Phrases are
separated by semicolons; a topic with a final `*` is plural, one with a final `~` is a mass noun.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A thing to ask about.

    Attributes:
        noun: The words that a faithful rewrite keeps.
        plural: Whether the noun is plural.
        mass: Whether the noun is a mass noun, which takes no article.
    """

    noun: str
    plural: bool = False
    mass: bool = False


@dataclass(frozen=True)
class Domain:
    """A field of everyday life.

    Attributes:
        name: Name of the domain.
        verb: Verb for what users do with its topics.
        gerund: The verb's form in -ing.
        owned: Whether users speak of "my" topic rather than of "the" topic.
        topics: The topics.
        adjectives: Adjectives of topics.
        trouble: What can be wrong with a topic, in the singular and the plural.
        steps: Steps of advice.
        tips: Reasons and general advice.
        needs: Things that are needed.
        causes: Causes of trouble.
        times: Durations.
        helpers: Who can help.
    """

    name: str
    verb: str
    gerund: str
    owned: bool
    topics: tuple[Topic, ...]
    adjectives: tuple[str, ...]
    trouble: tuple[tuple[str, str], ...]
    steps: tuple[str, ...]
    tips: tuple[str, ...]
    needs: tuple[str, ...]
    causes: tuple[str, ...]
    times: tuple[str, ...]
    helpers: tuple[str, ...]


def _split(text: str) -> tuple[str, ...]:
    """Split phrases that are separated by semicolons."""
    return tuple(part.strip() for part in " ".join(text.split()).split(";") if part.strip())


def _domain(name: str, verb: str, gerund: str, owned: bool, **lists: str) -> Domain:
    """Return a domain, with each list of phrases given as text."""
    topics = tuple(Topic(t.rstrip("*~"), t.endswith("*"), t.endswith("~")) for t in _split(lists.pop("topics")))
    pairs = [pair.split("/") for pair in _split(lists.pop("trouble"))]
    trouble = tuple((one.strip(), many.strip()) for one, many in pairs)
    phrases = {key: _split(text) for key, text in lists.items()}
    return Domain(name, verb, gerund, owned, topics, trouble=trouble, **phrases)


DOMAINS: tuple[Domain, ...] = (
    _domain(
        "cooking",
        "cook",
        "cooking",
        True,
        topics="""soup~; pancakes*; lasagne; curry; porridge~; risotto; stew; omelette; noodles*; meatballs*; salad;
            pizza; dumplings*; goulash~; beans*; chowder; casserole; paella; pasta~; pie; waffles*; fishcakes*""",
        adjectives="tomato; lentil; spicy; vegetable; mushroom; creamy; simple; Sunday; potato; quick; sweet; winter",
        trouble="""tastes flat/taste flat; is too salty/are too salty; burns every time/burn every time; turns out
            dry/turn out dry""",
        steps="""read the recipe to the end; measure everything first; warm the pan slowly; add salt a little at a
            time; stir now and then; taste halfway; turn the heat down; add fresh herbs; let everything rest for five
            minutes; keep the lid half open; serve on warm plates; chop everything into small pieces""",
        tips="""low heat gives more flavour; a sharp knife saves time; fresh herbs go in last; leftovers keep for two
            days; a squeeze of lemon lifts the taste; a heavy pan cooks more evenly""",
        needs="a large pot; a sharp knife; a wooden spoon; olive oil; salt and pepper; onions; stock; fresh herbs",
        causes="the heat is too high; there is too little salt; the pan is too full; the cooking time is too long",
        times="half an hour; forty minutes; one hour; twenty minutes",
        helpers="a friend who cooks; a good cookbook; a neighbour with a big kitchen; a cooking class",
    ),
    _domain(
        "travel",
        "plan",
        "planning",
        True,
        topics="""holiday; cruise; hike; weekend; flight; ferry; roadtrip; campsite; tour; journey; honeymoon; visit;
            hostel; itinerary; excursion; safari; layover; crossing; stopover; getaway; trips*; tickets*""",
        adjectives="coastal; summer; long; first; mountain; family; city; train; island; spring; northern; cheap",
        trouble="""costs too much/cost too much; feels too crowded/feel too crowded; keeps changing/keep changing; is
            too long/are too long""",
        steps="""choose the dates; compare two or three prices; book the train early; write down the address; pack one
            small bag; check the passport; save the map on the phone; leave room for a free day; tell a friend the
            route; change some money; arrive an hour early; keep the receipts together""",
        tips="""midweek days are cheaper; a small bag is easier to carry; the best rooms go early; mornings are quiet;
            a free day makes all calmer; local buses are often enough""",
        needs="a passport; a small bag; a map; good shoes; a water bottle; a charger; some cash; a rain jacket",
        causes="""the dates are in high season; the plan is too full; the booking came too late; the route has many
            changes""",
        times="two evenings; a week; one afternoon; a few days",
        helpers="a travel office; a friend who was there; the station desk; the tourist office",
    ),
    _domain(
        "health",
        "look after",
        "looking after",
        True,
        topics="""knee; back; shoulder; ankle; cough; headache; skin~; teeth*; stomach; neck; wrist; fever; throat;
            allergy; eyes*; blister; heel; elbow; sunburn; hip; gums*; sinuses*""",
        adjectives="sore; left; right; stiff; swollen; weak; tired; dry; itchy; bruised; painful; sensitive",
        trouble="""hurts at night/hurt at night; feels worse today/feel worse today; is not healing/are not healing;
            bothers me/bother me""",
        steps="""rest for a day; drink more water; put something cool on the spot; move gently twice a day; sleep a
            little longer; write down when the pain comes; avoid heavy bags; take a warm shower; stretch slowly; eat
            light meals; ask a doctor after three days; keep warm in the evening""",
        tips="""gentle movement helps more than lying still; pain that grows needs a doctor; small breaks do good;
            water helps the body heal; sleep is half the cure; a diary shows what makes things worse""",
        needs="""a cold pack; a warm blanket; a water bottle; a soft pillow; a bandage; a mild cream; some rest;
            herbal tea""",
        causes="there was too much strain; the chair is too low; the sleep was too short; the muscles are tired",
        times="three days; about a week; two weeks; a few days",
        helpers="a doctor; a pharmacist; a physiotherapist; a nurse",
    ),
    _domain(
        "money",
        "manage",
        "managing",
        True,
        topics="""budget; savings*; rent~; bills*; pension; loan; mortgage; taxes*; insurance; salary; account;
            debts*; allowance; expenses*; deposit; refund; invoice; subscription; receipts*; payments*; bonus; fund""",
        adjectives="monthly; yearly; household; small; shared; first; old; weekly; private; late; new; joint",
        trouble="""grows too slowly/grow too slowly; is out of control/are out of control; worries me/worry me; looks
            wrong/look wrong""",
        steps="""write down all numbers; sort the papers by month; set a fixed limit; move a small sum on payday;
            cancel what is not used; compare two offers; check the bank app on Fridays; keep one folder; pay the
            largest sum first; put the dates in the calendar; round every sum up; look again after a month""",
        tips="""small sums add up; a fixed day keeps order; cash is easier to watch; old contracts are often too dear;
            one folder is enough; a buffer of a month is safe""",
        needs="""a notebook; the bank papers; a calculator; a folder; a calendar; the last letters; a pen; a quiet
            hour""",
        causes="""there is no fixed limit; a contract is too dear; the dates were forgotten; small sums were not
            counted""",
        times="one evening; an hour a month; a weekend; twenty minutes a week",
        helpers="a bank adviser; a tax office; a friend who is good with numbers; an advice centre",
    ),
    _domain(
        "garden",
        "grow",
        "growing",
        True,
        topics="""tomatoes*; roses*; herbs*; lawn; carrots*; tulips*; strawberries*; lavender~; hedge; pumpkin;
            basil~; beets*; cactus; ferns*; apples*; peas*; orchid; sunflowers*; ivy~; cabbage; chives*;
            raspberries*""",
        adjectives="young; red; wild; climbing; early; potted; small; late; white; healthy; tall; yellow",
        trouble="looks yellow/look yellow; is not growing/are not growing; dries out/dry out; has spots/have spots",
        steps="""loosen the soil; pick a sunny spot; water early in the morning; add some compost; remove the weeds;
            leave enough space; cut the dry leaves; cover the ground with straw; check for snails; turn the pot every
            week; wait until the last frost; tie the stems to a stick""",
        tips="""morning water works best; too much water does harm; compost feeds the soil; shade helps in July;
            snails come at night; good soil is half the work""",
        needs="a small spade; compost; a watering can; gloves; a large pot; straw; a stick; garden scissors",
        causes="the soil is too dry; there is too little sun; snails are about; the pot is too small",
        times="eight weeks; one season; ten days; about two months",
        helpers="a gardener; the garden shop; an older neighbour; a garden club",
    ),
    _domain(
        "pets",
        "care for",
        "caring for",
        True,
        topics="""dog; cat; rabbit; hamster; parrot; puppy; kitten; goldfish; pony; turtle; canary; chickens*; gecko;
            ferret; ducks*; spaniel; terrier; poodle; mice*; donkey; beagle; budgie""",
        adjectives="old; young; shy; lively; small; brown; hungry; nervous; fluffy; lazy; grey; playful",
        trouble="""will not eat/will not eat; scratches a lot/scratch a lot; sleeps all day/sleep all day; is
            restless/are restless""",
        steps="""fill the water bowl; feed at fixed hours; brush the coat gently; clean the sleeping place; check the
            ears; play for ten minutes; speak in a calm voice; give a small treat; keep the food dry; go out after
            meals; watch the weight; leave a quiet corner""",
        tips="""fixed hours give calm; too many treats do harm; fresh water matters most; a quiet corner lowers
            stress; play keeps the mind awake; sudden change is hard for animals""",
        needs="a water bowl; dry food; a soft brush; a blanket; a small toy; a bag of treats; a travel box; a towel",
        causes="the food has changed; there is too much noise; the days are too quiet; the place is too warm",
        times="ten minutes a day; half an hour; a week or two; one hour",
        helpers="a vet; a pet shop; an animal trainer; a neighbour with animals",
    ),
    _domain(
        "school",
        "study",
        "studying",
        True,
        topics="""algebra~; French~; history~; essay; physics~; spelling~; biology~; vocabulary; geometry~; poem;
            chemistry~; grammar~; homework~; Spanish~; thesis; geography~; fractions*; Latin~; test; exam; notes*;
            lecture""",
        adjectives="basic; final; weekly; advanced; difficult; short; written; oral; spring; next; evening; beginner",
        trouble="""feels too hard/feel too hard; takes too long/take too long; bores me/bore me; will not stick/will
            not stick""",
        steps="""read the task twice; make a small plan; underline the main words; write five cards; explain the idea
            aloud; take a break after half an hour; solve one old example; put the phone away; check the answers;
            repeat the hard part; ask a question in class; sleep well before the day""",
        tips="""short daily work beats one long night; saying it aloud helps; mistakes show the way; a quiet desk
            helps; old tests are the best practice; breaks keep the head fresh""",
        needs="""a notebook; coloured pens; small cards; a dictionary; a quiet desk; a timer; the last worksheet; a
            ruler""",
        causes="the basics have gaps; the phone is too near; the plan is too big; the breaks are missing",
        times="twenty minutes a day; two weeks; one hour; a month",
        helpers="a teacher; an older student; a study group; a tutor",
    ),
    _domain(
        "sport",
        "train for",
        "training for",
        True,
        topics="""marathon; race; match; triathlon; tournament; climb; swim; sprint; regatta; dance; relay; derby;
            ride; league; ski; jump; boxing~; tennis~; judo~; handball~; rowing~; squats*""",
        adjectives="local; half; charity; first; club; long; autumn; indoor; night; beach; school; annual",
        trouble="""makes me tired/make me tired; scares me/scare me; is not getting easier/are not getting easier;
            gives me cramps/give me cramps""",
        steps="""start slowly; warm up for ten minutes; train on three days; rest on one day; drink enough water;
            stretch at the end; write down the times; raise the load a little every week; wear good shoes; eat two
            hours before; sleep eight hours; join a small group""",
        tips="""rest makes you strong; slow days are useful; a group keeps you going; good shoes protect the legs; too
            much too soon does harm; a diary shows the progress""",
        needs="good shoes; a water bottle; a watch; light clothes; a towel; a training plan; a mat; a warm jacket",
        causes="the start was too fast; there is too little rest; the shoes are worn; the meals are too late",
        times="eight weeks; three months; six weeks; half an hour a day",
        helpers="a coach; a sports club; a friend who trains; a physiotherapist",
    ),
    _domain(
        "music",
        "practise",
        "practising",
        True,
        topics="""guitar; piano; violin; scales*; song; flute; drums*; cello; chords*; melody; trumpet; solo; ukulele;
            waltz; rhythm; harp; duet; accordion; clarinet; sonata; anthem; carols*""",
        adjectives="slow; new; first; old; difficult; jazz; folk; quiet; short; classical; electric; winter",
        trouble="""sounds wrong/sound wrong; is too fast for me/are too fast for me; hurts my fingers/hurt my fingers;
            bores me/bore me""",
        steps="""tune before you begin; play very slowly; count aloud; repeat four bars; set a slow beat; relax the
            hands; listen to a recording; mark the hard places; play the end first; stop after half an hour; record
            yourself; sing the line once""",
        tips="""slow practice is fast learning; ten minutes a day are enough; relaxed hands sound better; small parts
            stick; a recording is honest; breaks protect the fingers""",
        needs="a metronome; a music stand; a pencil; a tuner; a quiet room; new strings; a chair; the notes",
        causes="the tempo is too high; the hands are tense; the tuning is off; the part is too long",
        times="ten minutes a day; four weeks; half an hour; two months",
        helpers="a music teacher; the town band; a friend who plays; a music school",
    ),
    _domain(
        "weather",
        "prepare for",
        "preparing for",
        False,
        topics="""storm; frost~; heatwave; rain~; snow~; fog~; thunder~; wind~; flood; hail~; drought; blizzard;
            drizzle~; ice~; showers*; gales*; sunshine~; cold~; humidity~; sleet~; monsoon; tide""",
        adjectives="heavy; sudden; early; strong; long; coming; autumn; bitter; wet; mild; late; dangerous",
        trouble="""will not stop/will not stop; worries me/worry me; came too early/came too early; ruins my
            plans/ruin my plans""",
        steps="""read the forecast; close the windows; bring the plants inside; charge the phone; wear several layers;
            leave home a little earlier; put a torch by the door; check the roof; keep water ready; drive slowly;
            cover the bicycle; call the neighbours""",
        tips="""the morning forecast is the best one; layers keep you warm; a charged phone is safety; dry shoes
            matter; slow driving saves trouble; old roofs need a look""",
        needs="a torch; a warm jacket; rubber boots; an umbrella; drinking water; a full battery; candles; a blanket",
        causes="the air is very warm; a front is coming; the sea is still cold; the wind has turned",
        times="an hour; one evening; ten minutes; half a day",
        helpers="the weather service; a neighbour; the town office; the fire service",
    ),
    _domain(
        "repair",
        "fix",
        "fixing",
        True,
        topics="""tap; kettle; hinge; lamp; shelf; drawer; gutter; boiler; radiator; fence; toilet; doorbell; window;
            sink; tiles*; chair; lock; blinds*; toaster; staircase; pipes*; bicycle""",
        adjectives="leaking; old; wooden; kitchen; broken; loose; rusty; cellar; noisy; front; bathroom; bent",
        trouble="leaks/leak; makes a noise/make a noise; is stuck/are stuck; stopped working/stopped working",
        steps="""turn off the power or water; take a photo first; clean the dirty parts; tighten the screws; measure
            the gap; replace the worn part; put a drop of oil; test with care; keep the small parts in a cup; let the
            glue dry; read the label; sweep the floor""",
        tips="""a photo helps to put things back; cheap parts break sooner; oil solves many noises; never rush with
            power; a dry surface holds better; the right tool saves an hour""",
        needs="a screwdriver; a wrench; some oil; tape; a new seal; strong glue; a torch; gloves",
        causes="a seal is worn; a screw is loose; dirt is in the way; the wood has swollen",
        times="one hour; twenty minutes; a Saturday morning; half a day",
        helpers="a plumber; a handy neighbour; the hardware shop; an electrician",
    ),
    _domain(
        "computers",
        "set up",
        "setting up",
        True,
        topics="""laptop; printer; router; backup; phone; tablet; email~; password; website; camera; keyboard; folder;
            network; headset; scanner; screen; calendar; login; server; spreadsheet; photos*; speakers*""",
        adjectives="new; slow; home; office; wireless; second; shared; old; portable; noisy; secure; borrowed",
        trouble="""will not start/will not start; keeps crashing/keep crashing; is very slow/are very slow; shows an
            error/show an error""",
        steps="""restart once; install the updates; check the cable; choose a long password; make a copy of the files;
            read the message on the screen; close what is not used; turn on two-step login; write down the settings;
            try another port; free some space; test with one file""",
        tips="""a restart solves half of all trouble; copies belong in two places; updates close holes; long passwords
            are best; old cables cause odd faults; one change at a time""",
        needs="""a cable; the password; an hour of time; a spare disk; the manual; a stable connection; a charger; a
            notebook""",
        causes="an update is missing; the disk is full; the cable is loose; the settings are wrong",
        times="half an hour; one evening; ten minutes; two hours",
        helpers="the help desk; a friend who knows computers; the shop; the library",
    ),
    _domain(
        "shopping",
        "choose",
        "choosing",
        True,
        topics="""coat; mattress; tent; shoes*; sofa; backpack; gift; bike; glasses*; boots*; suitcase; stroller; rug;
            perfume; helmet; gloves*; blender; curtains*; armchair; umbrella; jeans*; wardrobe""",
        adjectives="warm; light; cheap; used; large; blue; comfortable; waterproof; small; green; strong; elegant",
        trouble="""does not fit/do not fit; is too dear/are too dear; broke after a week/broke after a week; looks
            strange/look strange""",
        steps="""set a limit; measure first; read three reviews; compare two shops; try the size; check the material;
            ask about returns; keep the receipt; wait one night; look for used offers; test the weight;
            note the price""",
        tips="""one night of thought saves money; used things are often as good; good material lasts; sizes differ by
            brand; sales come at the end of the season; returns should be free""",
        needs="a list; a tape measure; a fixed limit; some time; a photo; the old receipt; a bag; a second opinion",
        causes="the size is wrong; the material is thin; the offer was too cheap; the reviews were not read",
        times="a few days; one afternoon; a week; two hours",
        helpers="a good shop; a friend with taste; a consumer office; a seller who listens",
    ),
    _domain(
        "work",
        "prepare",
        "preparing",
        True,
        topics="""meeting; report; presentation; interview; workshop; contract; proposal; agenda; speech; review;
            application; schedule; minutes*; project; memo; training; slides*; deadline; negotiation; pitch; survey;
            newsletter""",
        adjectives="monthly; first; team; short; important; final; sales; online; internal; yearly; urgent; public",
        trouble="""takes too long/take too long; is behind/are behind; stresses me/stress me; keeps growing/keep
            growing""",
        steps="""write the goal in one line; list three points; ask who will read or hear it; block an hour; make a
            rough draft; cut what is not needed; show a colleague; check the names; send things a day early; note the
            open questions; end with the next step; keep a copy""",
        tips="""one goal is enough; short texts are read; a draft beats a plan; early questions save work; mornings
            are good for hard tasks; names must be right""",
        needs="""an outline; last year's numbers; a quiet hour; a clear goal; a colleague; a checklist; a calendar;
            the notes""",
        causes="the goal is not clear; too many people decide; the start was late; the draft is too long",
        times="two hours; one morning; three days; a week",
        helpers="a colleague; your boss; the office team; someone who did it before",
    ),
    _domain(
        "family",
        "organise",
        "organising",
        True,
        topics="""party; picnic; birthday; wedding; breakfast; reunion; playdate; dinner; christening; outing;
            barbecue; babysitter; sleepover; anniversary; chores*; carpool; brunch; celebration; games*; nursery;
            move; bedroom""",
        adjectives="small; surprise; big; family; outdoor; quiet; children's; summer; cosy; joint; festive; early",
        trouble="""is too loud/are too loud; turns into a fight/turn into a fight; costs too much/cost too much;
            stresses us/stress us""",
        steps="""fix the date; write a short guest list; ask everyone for one wish; share the tasks; make things
            simple; buy the food a day before; prepare a rain plan; give the children a job; leave time to sit; take
            one photo; say thank you; end before all are tired""",
        tips="""less is more; children like to help; shared work is half the work; a rain plan calms everyone; early
            evenings are best; small thanks go far""",
        needs="a guest list; paper plates; some games; a cake; a calendar; cold drinks; a blanket; helping hands",
        causes="the day is too full; nobody knows the plan; the children are tired; there is too little room",
        times="two weeks; one evening; a few days; an afternoon",
        helpers="the grandparents; a good friend; the neighbours; the older children",
    ),
    _domain(
        "sleep",
        "improve",
        "improving",
        True,
        topics="""sleep~; bedtime; nap; routine; pillow; dreams*; evenings*; mornings*; alarm; snoring~; rest~;
            nights*; wakeup; insomnia~; siesta; blanket; jetlag~; nightmares*; darkness~; breathing~; tiredness~;
            relaxation~""",
        adjectives="daily; short; regular; poor; light; calm; restless; new; winter; deep; late; weekend",
        trouble="""is getting worse/are getting worse; leaves me tired/leave me tired; feels wrong/feel wrong; annoys
            me/annoy me""",
        steps="""go to bed at the same hour; put the phone in another room; open the window; drink no coffee after
            two; read a few pages; dim the lights; write down tomorrow's tasks; take a warm bath; keep the room cool;
            breathe out slowly; get up at a fixed time; walk in the daylight""",
        tips="""fixed hours help most; cool rooms are best; screens keep you awake; daylight sets the clock; coffee
            works for hours; a short list frees the head""",
        needs="a dark room; a book; fresh air; a simple clock; a warm drink; soft light; earplugs; a notebook",
        causes="the screen is on too late; the room is too warm; the hours change too much; there is too much coffee",
        times="two weeks; ten days; a month; a few nights",
        helpers="a doctor; a sleep clinic; a calm friend; a good book",
    ),
)
