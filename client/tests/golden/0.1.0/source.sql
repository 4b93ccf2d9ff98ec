create table product (id integer primary key, name text, weight double precision, listed boolean,
    sold_at timestamptz, local_at timestamp, day date, amount numeric, picture bytea, more jsonb, tags text[], code uuid);
insert into product values
    (1, 'Chair', 4.5, true, '2026-01-02 03:04:05.678901+00', '2026-01-02 03:04:05', '2026-01-02', 12.50, '\x00ff', '{"a": [1, null]}', '{a,"b c"}', '5f3c9f1e-0b6a-4f0e-9f0d-3f4f5d1c2b3a'),
    (2, E'tab\t, line\n, \\ and ü', 'NaN', false, 'infinity', '0044-03-15 BC', null, 1e-20, '', 'null', '{}', null),
    (3, null, null, null, null, null, null, null, null, null, null, null),
    (4, '', '-Infinity', true, null, null, null, -0.10, null, null, null, null),
    (5, 'Lamp', 0, true, null, null, null, null, null, null, null, null),
    (6, 'Desk', 0, true, null, null, null, null, null, null, null, null);
create table price (product integer, area text, amount numeric(8,2) not null, primary key (area, product));
insert into price values (1, 'de', 10), (1, 'fr', 11), (2, 'de', 12);
