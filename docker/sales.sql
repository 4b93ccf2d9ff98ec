-- Stands for the application: every five seconds the price of one product changes.
update product set price = round((20 + random() * 200)::numeric, 2)
where id = (select id from product where not deleted order by random() limit 1) \watch 5
